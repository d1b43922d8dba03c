//! Folders on a real disk.

use std::{fs, time::Duration};

use tokio::sync::mpsc;

use super::*;
use crate::fixtures::object_ref;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

/// Short names of events, so that a test can say what it expects in one line.
fn short(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Apply(resource) => format!("+{}", resource.metadata().name),
        Event::Delete(object) => format!("-{}", object.name),
        Event::Synced => "synced".into(),
        Event::Problems(problems) => format!("{} problems", problems.len()),
    };
    events.iter().map(name).collect()
}

#[test]
fn files_come_change_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("deep/er")).unwrap();
    fs::write(path("a.yaml"), service("a", 80) + &service("b", 80)).unwrap();
    fs::write(path("deep/er/c.yml"), service("c", 80)).unwrap();
    fs::write(path(".hidden.yaml"), service("hidden", 80)).unwrap();
    fs::write(path("notes.txt"), service("notes", 80)).unwrap();
    let mut state = State::new(vec![folder.path().to_owned()]);
    assert_eq!(short(&state.scan()), ["+a", "+b", "+c", "0 problems", "synced"]);
    assert!(state.scan().is_empty(), "no change, no event");
    fs::write(path("a.yaml"), service("a", 81)).unwrap();
    assert_eq!(short(&state.scan()), ["-b", "+a"]);
    fs::write(path("a.yaml"), service("a", 81)).unwrap();
    assert!(state.scan().is_empty(), "written anew with the same content");
    fs::remove_dir_all(path("deep")).unwrap();
    assert_eq!(short(&state.scan()), ["-c"]);
}

#[test]
fn a_broken_file_keeps_its_last_good_state_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, service("a", 80) + &service("b", 80)).unwrap();
    fs::write(folder.path().join("other.yaml"), service("c", 80)).unwrap();
    let mut state = State::new(vec![folder.path().to_owned()]);
    state.scan();
    fs::write(&file, service("a", 99) + "apiVersion: v1\nkind: [oops\n").unwrap();
    let events = state.scan();
    let [Event::Problems(problems)] = &events[..] else { panic!("{events:?}") };
    let told = problems[0].to_string();
    assert!(told.starts_with(&format!("{}:7: ", file.display())), "{told}");
    assert!(told.ends_with("the file's last good state stays in force"), "{told}");
    assert_eq!(short(&state.scan()), Vec::<String>::new());
    fs::write(&file, service("a", 99)).unwrap();
    assert_eq!(short(&state.scan()), ["-b", "+a", "0 problems"]);
}

#[test]
fn a_file_that_never_was_good_gives_what_can_be_read_and_closes_what_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let policy = "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rulez: []}\n";
    fs::write(folder.path().join("a.yaml"), service("a", 80) + policy).unwrap();
    let mut state = State::new(vec![folder.path().to_owned()]);
    assert_eq!(short(&state.scan()), ["+p", "+a", "1 problems", "synced"]);
}

#[test]
fn the_first_path_wins_and_the_second_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("b.yaml"), service("x", 2)).unwrap();
    fs::write(path("a.yaml"), service("x", 1)).unwrap();
    let mut state = State::new(vec![folder.path().to_owned()]);
    assert_eq!(short(&state.scan()), ["+x", "1 problems", "synced"]);
    let port = |state: &State| match &state.contents().0[0].value {
        Resource::Service(service) => service.spec.ports[0].port,
        other => panic!("{other:?}"),
    };
    assert_eq!(port(&state), 1);
    fs::remove_file(path("a.yaml")).unwrap();
    assert_eq!(short(&state.scan()), ["+x", "0 problems"]);
    assert_eq!(port(&state), 2);
}

#[test]
fn what_cannot_be_read_takes_nothing_away() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("manifests");
    let mut state = State::new(vec![folder.clone()]);
    assert_eq!(short(&state.scan()), ["1 problems"], "never read: not synced");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), service("a", 80)).unwrap();
    assert_eq!(short(&state.scan()), ["+a", "0 problems", "synced"]);
    fs::rename(&folder, parent.path().join("away")).unwrap();
    assert_eq!(short(&state.scan()), ["1 problems"], "the folder is gone as a whole: an outage, no deletion");
    fs::rename(parent.path().join("away"), &folder).unwrap();
    assert_eq!(short(&state.scan()), ["0 problems"]);
    fs::write(folder.join("b.yaml"), vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    fs::write(folder.join("c.yaml"), [0xff, 0xfe]).unwrap();
    assert_eq!(short(&state.scan()), ["2 problems"]);
}

#[test]
fn a_mounted_config_map_is_followed_through_its_links() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, port) in [("..one", 1), ("..two", 2)] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("a.yaml"), service("a", port)).unwrap();
    }
    std::os::unix::fs::symlink("..one", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", path("a.yaml")).unwrap();
    std::os::unix::fs::symlink(".", path("circle")).unwrap();
    let mut state = State::new(vec![folder.path().to_owned()]);
    assert_eq!(short(&state.scan()), ["+a", "0 problems", "synced"]);
    std::os::unix::fs::symlink("..two", path("..next")).unwrap();
    fs::rename(path("..next"), path("..data")).unwrap();
    assert_eq!(short(&state.scan()), ["+a"]);
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("in time").expect("the task lives")
}

#[tokio::test]
async fn the_kernel_tells_and_the_slow_look_makes_up_for_it() {
    let folder = tempfile::tempdir().unwrap();
    for rescan in [Duration::from_secs(3600), Duration::from_millis(20)] {
        let (sender, mut events) = mpsc::channel(8);
        let mut options = Options::new(vec![folder.path().to_owned()]);
        options.rescan = rescan;
        let task = tokio::spawn(watch(options, sender));
        while next(&mut events).await != Event::Synced {}
        fs::write(folder.path().join("a.yaml"), service("a", 80)).unwrap();
        assert_eq!(short(&[next(&mut events).await]), ["+a"]);
        fs::create_dir(folder.path().join("new")).unwrap();
        fs::write(folder.path().join("new/b.yaml"), service("b", 80)).unwrap();
        assert_eq!(short(&[next(&mut events).await]), ["+b"]);
        fs::remove_dir_all(folder.path().join("new")).unwrap();
        assert_eq!(next(&mut events).await, Event::Delete(object_ref("Service", "shop", "b")));
        drop(events);
        tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap().unwrap();
        fs::remove_file(folder.path().join("a.yaml")).unwrap();
    }
}

#[test]
fn loading_once_gives_objects_in_order_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("b.yaml"), service("a", 80)).unwrap();
    fs::write(folder.path().join("a.yaml"), service("z", 80) + &service("y", 80) + "nonsense").unwrap();
    let (objects, problems) = crate::source::load_dir(folder.path());
    let names: Vec<_> = objects.iter().map(|o| (o.value.metadata().name.as_str(), o.place.line)).collect();
    assert_eq!(names, [("z", 1), ("y", 6), ("a", 1)]);
    assert_eq!(problems.len(), 1);
    let (objects, problems) = crate::source::load_dir(&folder.path().join("nowhere"));
    assert_eq!((objects.len(), problems.len()), (0, 1));
    let (objects, _) = crate::source::load_dir(&folder.path().join("b.yaml"));
    assert_eq!(objects.len(), 1, "one file");
}
