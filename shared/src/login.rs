//! A name and its password: the same to the settings, which read them, and to the
//! adapter that uses them.

#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub pass: String,
}
