//! Text from users and publishers: URLs, paths, names, link targets. Accepted text must print and
//! parse to itself. Names of any bytes, and their text, must be made of each other.

use hypermount_drive::{DrivePath, DriveUrl, Name, escape, escape_path, unescape, unescape_path};

pub fn run(input: &[u8]) {
    assert_eq!(*unescape(&escape(input)), *input);
    assert_eq!(*unescape_path(&escape_path(input)), *input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert_eq!(*escape(&unescape(text)), *text);
    assert_eq!(*escape_path(&unescape_path(text)), *text);
    if let Ok(url) = text.parse::<DriveUrl>() {
        assert_eq!(url.to_string().parse::<DriveUrl>().expect("we wrote it"), url);
    }
    if let Ok(path) = DrivePath::parse(text) {
        assert_eq!(DrivePath::parse(path.as_str()).expect("we wrote it"), path);
        let mut joined = DrivePath::root();
        for component in path.components() {
            joined =
                joined.join(&Name::new(component).expect("a component is a name")).expect("fits");
        }
        assert_eq!(joined, path);
    }
    if let Ok(name) = Name::new(text) {
        assert!(!text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..");
        assert_eq!(name.as_str(), text);
    }
}
