//! The parts of a content repository that know nothing of rooms, users or the database: stores for
//! files, thumbnails, poster frames of videos, scanners, what a web page says about itself, and the
//! headers with which a stranger's file may be served.

pub mod blob;
pub mod kind;
pub mod page;

pub mod poster;
pub mod range;
pub mod scan;
pub mod serve;
pub mod thumbnail;
