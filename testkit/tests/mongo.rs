//! That SecantusDB starts, comes back with its data, and asks who calls.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

use mongodb::Client;
use mongodb::bson::{Document, doc};
use testkit::mongo::{Mongo, Options};

async fn count(server: &Mongo) -> mongodb::error::Result<u64> {
    let client = Client::with_uri_str(server.connection_string()).await?;
    client.database("test").collection::<Document>("rows").count_documents(doc! {}).await
}

async fn insert(server: &Mongo) -> mongodb::error::Result<()> {
    let client = Client::with_uri_str(server.connection_string()).await?;
    client.database("test").collection("rows").insert_one(doc! { "a": 1 }).await.map(drop)
}

#[tokio::test]
async fn it_comes_back_with_its_data_after_a_kill() {
    let Some(mut server) = Mongo::start_or_skip(Options::default()) else { return };
    insert(&server).await.unwrap();
    let address = server.address();
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(server.address(), address);
    assert_eq!(count(&server).await.unwrap(), 1);
}

#[tokio::test]
async fn it_asks_who_calls() {
    let credentials = Some(("someone".to_owned(), "secret".to_owned()));
    let Some(mut server) = Mongo::start_or_skip(Options { credentials, ..Options::default() }) else { return };
    for _ in 0..2 {
        insert(&server).await.unwrap();
        let stranger = Client::with_uri_str(format!("mongodb://{}", server.address())).await.unwrap();
        assert!(stranger.database("test").collection::<Document>("rows").find_one(doc! {}).await.is_err());
        server.kill().unwrap();
        server.start_again().unwrap();
    }
    assert_eq!(count(&server).await.unwrap(), 2);
}
