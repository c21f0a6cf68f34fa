//! Who runs this process.

use nix::unistd::{Uid, User};

/// The login name, or the number of a user that has none.
pub fn name() -> String {
    let uid = Uid::effective();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}
