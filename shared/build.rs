//! Takes from the published Swagger UI what the documentation's page needs. Nothing
//! is fetched: the archive is a crate.

use std::error::Error;
use std::io::{Cursor, Read};
use std::path::Path;

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

/// The files within the archive's one folder, with its licence.
const FILES: [&str; 4] = ["dist/swagger-ui-bundle.js", "dist/swagger-ui.css", "LICENSE", "NOTICE"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = std::env::var("OUT_DIR")?;
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    let folder = archive.by_index(0)?.name()?.to_string();
    for file in FILES {
        let mut content = Vec::new();
        archive.by_name(&format!("{folder}{file}"))?.read_to_end(&mut content)?;
        let name = file.rsplit('/').next().unwrap_or(file);
        std::fs::write(Path::new(&out).join(name), content)?;
    }
    Ok(())
}
