//! Real programs, unchanged, called directly and through two sidecars: what they see must be the same to the byte.
//!
//! Each test starts the real server, makes a transcript of what the real client does with it, and then makes it again
//! through a mesh, once for each way in which the protocol can be told: by looking, and as declared.

#[path = "real_programs/curl.rs"]
mod curl;
#[path = "real_programs/echo.rs"]
mod echo;
#[path = "real_programs/go.rs"]
mod go;
#[path = "real_programs/mariadb.rs"]
mod mariadb;
#[path = "real_programs/nginx.rs"]
mod nginx;
#[path = "real_programs/postgres.rs"]
mod postgres;
#[path = "real_programs/redis.rs"]
mod redis;
