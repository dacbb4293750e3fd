//! What a `Stat` of the reference has no field for, as one member of its metadata (hyperdrive10.md §3): times
//! to the nanosecond, access times, the numbers of devices, and how many bytes are holes.

use prost::Message;

use crate::stat::{Device, Exact};
use crate::time::Time;

/// The name of the member. Earlier versions of this program do not show it, since `user.hypermount.` in front
/// of an attribute is theirs.
pub(super) const MEMBER: &str = "hypermount.stat";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ExactMessage {
    #[prost(uint32, optional, tag = "1")]
    version: Option<u32>,
    #[prost(message, optional, tag = "2")]
    mtime: Option<TimeMessage>,
    #[prost(message, optional, tag = "3")]
    ctime: Option<TimeMessage>,
    #[prost(message, optional, tag = "4")]
    atime: Option<TimeMessage>,
    #[prost(message, optional, tag = "5")]
    device: Option<DeviceMessage>,
    #[prost(uint64, optional, tag = "6")]
    holes: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeMessage {
    #[prost(sint64, optional, tag = "1")]
    seconds: Option<i64>,
    #[prost(uint32, optional, tag = "2")]
    nanoseconds: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceMessage {
    #[prost(uint32, optional, tag = "1")]
    major: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    minor: Option<u32>,
}

/// Reads the member; of another version, or one that makes no sense, nothing.
pub(super) fn decode(member: &[u8]) -> Exact {
    let Ok(message) = ExactMessage::decode(member) else { return Exact::default() };
    if message.version != Some(VERSION) {
        return Exact::default();
    }
    let time =
        |time: TimeMessage| Time::new(time.seconds.unwrap_or(0), time.nanoseconds.unwrap_or(0));
    let device = |device: DeviceMessage| Device {
        major: device.major.unwrap_or(0),
        minor: device.minor.unwrap_or(0),
    };
    Exact {
        mtime: message.mtime.and_then(time),
        ctime: message.ctime.and_then(time),
        atime: message.atime.and_then(time),
        device: message.device.map(device),
        holes: message.holes.unwrap_or(0),
    }
}

/// The value of the member.
pub(super) fn encode(exact: &Exact) -> Vec<u8> {
    let time = |time: Time| TimeMessage {
        seconds: Some(time.seconds()),
        nanoseconds: Some(time.nanoseconds()),
    };
    let device =
        |device: Device| DeviceMessage { major: Some(device.major), minor: Some(device.minor) };
    let message = ExactMessage {
        version: Some(VERSION),
        mtime: exact.mtime.map(time),
        ctime: exact.ctime.map(time),
        atime: exact.atime.map(time),
        device: exact.device.map(device),
        holes: Some(exact.holes).filter(|holes| *holes > 0),
    };
    message.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, nanoseconds: u32) -> Option<Time> {
        Time::new(seconds, nanoseconds)
    }

    #[test]
    fn the_member_has_the_documented_bytes() {
        let exact = Exact {
            mtime: time(-2, 500_000_000),
            ctime: time(1_700_000_000, 1),
            atime: None,
            device: Some(Device { major: 1, minor: 3 }),
            holes: 65_536,
        };
        let encoded = encode(&exact);
        assert_eq!(
            hex::encode(&encoded),
            concat!(
                "0801",
                "1208",
                "0803",
                "1080cab5ee01",
                "1a08",
                "0880c49fd50c",
                "1001",
                "2a04",
                "08011003",
                "30808004"
            )
        );
        assert_eq!(decode(&encoded), exact);
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        let message = |version, nanoseconds| {
            let mtime = Some(TimeMessage { seconds: Some(1), nanoseconds: Some(nanoseconds) });
            ExactMessage { version, mtime, ..ExactMessage::default() }.encode_to_vec()
        };
        assert_eq!(decode(&message(Some(1), 5)).mtime, time(1, 5));
        for member in
            [message(Some(2), 5), message(None, 5), message(Some(1), 1_000_000_000), vec![0xff; 9]]
        {
            assert_eq!(decode(&member), Exact::default());
        }
    }
}
