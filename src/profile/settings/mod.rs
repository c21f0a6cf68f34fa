//! Settings, from everywhere they may stand: built-in defaults < `/etc/ipcluster/ipcluster.toml` < the user's
//! `ipcluster.toml` < the profile's `ipcluster.toml` < the profile's `ipcontroller_config.py` and the like <
//! environment < command line. Every value remembers where it came from.

mod export;
mod load;
mod model;
mod ports;
mod resolve;
mod seconds;
mod size;

pub use export::{Imported, import, to_toml};
pub use load::{Sources, load, user_file};
pub use model::{
    ClusterSettings, ControllerSettings, CurveSettings, Database, EngineSettings,
    HeartbeatSettings, LauncherTraits, LogSettings, MemorySettings, MongodbSettings,
    ProcessSettings, Restart, SchedulerSettings, Scheme, SessionSettings, Settings, SqliteSettings,
    Synchronous, Traits, is_local_interface,
};
pub use ports::{PortError, Ports};
pub use resolve::{
    Change, Edit, Key, Origin, Resolved, Resolver, SettingsError, Shown, toml_edits,
};
pub use seconds::Seconds;
pub use size::Size;
