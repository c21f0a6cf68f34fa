pub struct Sources;
pub fn load() {}
