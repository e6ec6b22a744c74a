//! What is an instance and what is none.

use bramah_fuzz::{fuzz, within_bytes};

use super::*;

fn problem(json: &str) -> String {
    Instance::decode(json.as_bytes()).unwrap_err().to_string()
}

/// Spec R-1: what a person writes is enough, and all that can be said comes back.
#[test]
fn what_is_left_out_has_its_default() {
    let short = Instance::decode(br#"{"address":"10.0.0.7","port":8080,"colour":"green"}"#).unwrap();
    assert_eq!(short, Instance::new("10.0.0.7", 8080));
    assert_eq!((short.weight, short.health, short.check.clone()), (1, Health::Passing, None));
    let json = r#"{"address":"a.example","port":1,"check":{"kind":"http","path":"/health","rise":1,"x":[]}}"#;
    let check = Instance::decode(json.as_bytes()).unwrap().check.unwrap();
    assert_eq!(check, Check { rise: 1, ..Check::new(Probe::Http { path: "/health".into() }) });
    let whole = Instance {
        weight: 0,
        zone: Some("eu-1".into()),
        tags: vec!["v2".into(), "canary".into()],
        metadata: BTreeMap::from([("build".into(), "a=b é".into())]),
        health: Health::Critical,
        check: Some(Check {
            interval_ms: 100,
            ..Check::new(Probe::Grpc { service: "shop.v1.Carts".into() })
        }),
        ..Instance::new("fd00::1", 65_535)
    };
    assert_eq!(Instance::decode(&whole.encode().unwrap()), Ok(whole.clone()));
    assert_eq!(whole.authority(), "[fd00::1]:65535");
}

#[test]
fn what_is_no_instance_is_refused_with_the_reason() {
    for (json, reason) in [
        ("", "the file: EOF"),
        ("[]", "the file: "),
        (r#"{"port":1}"#, "missing field `address`"),
        (r#"{"address":"a","port":0}"#, "port: it is 0"),
        (r#"{"address":"a","port":65536}"#, "the file: "),
        (r#"{"address":"A.b","port":1}"#, "address: \"A.b\" is neither"),
        (r#"{"address":"10.0.0.256","port":1}"#, "address: \"10.0.0.256\" is neither"),
        (r#"{"address":"a..b","port":1}"#, "address: "),
        (r#"{"address":"a","port":1,"weight":65536}"#, "weight: 65536 is more"),
        (r#"{"address":"a","port":1,"zone":""}"#, "zone: \"\" is no name"),
        (r#"{"address":"a","port":1,"tags":["V2"]}"#, "tag: \"V2\" is no name"),
        (r#"{"address":"a","port":1,"metadata":{"a=b":""}}"#, "metadata: the key \"a=b\""),
        (r#"{"address":"a","port":1,"metadata":{"a":"\u0000"}}"#, "metadata \"a\": it holds a control"),
        (r#"{"address":"a","port":1,"health":"fine"}"#, "the file: unknown variant `fine`"),
        (r#"{"address":"a","port":1,"check":{"kind":"ping"}}"#, "the file: unknown variant `ping`"),
        (r#"{"address":"a","port":1,"check":{"kind":"http","path":"x"}}"#, "check.path: \"x\" is no path"),
        (
            r#"{"address":"a","port":1,"check":{"kind":"tcp","interval_ms":99}}"#,
            "check.interval_ms: 99 is not",
        ),
        (r#"{"address":"a","port":1,"check":{"kind":"tcp","fall":0}}"#, "check.fall: 0 is not from 1 to 100"),
    ] {
        let problem = problem(json);
        assert!(problem.contains(reason), "{json}: {problem}");
    }
}

#[test]
fn sizes_are_bounded() {
    let many = |count: usize| (0..count).map(|tag| format!("t{tag}")).collect::<Vec<_>>();
    let tagged = |tags| Instance { tags, ..Instance::new("a", 1) };
    assert!(tagged(many(MAX_TAGS)).encode().is_ok());
    assert!(tagged(many(MAX_TAGS + 1)).encode().unwrap_err().to_string().contains("at most 64"));
    let values: BTreeMap<_, _> = (0..17).map(|key| (key.to_string(), "v".repeat(1024))).collect();
    let whole = Instance { metadata: values, ..Instance::new("a", 1) };
    assert!(whole.validate().is_ok());
    assert!(whole.encode().unwrap_err().to_string().contains("at most 16384"));
    let padded = format!("{{\"address\":\"a\",\"port\":1}}{}", " ".repeat(MAX_INSTANCE_BYTES));
    assert!(problem(&padded).contains("at most 16384"));
    assert!(tagged(vec!["a".repeat(63)]).validate().is_ok());
    assert!(tagged(vec!["a".repeat(64)]).validate().is_err());
}

#[test]
fn paths_say_which_instance_it_is() {
    assert_eq!(instance_path("web", "web-1").unwrap(), "/services/web/web-1");
    assert_eq!(of_path("/services/web/web-1"), Some(("web", "web-1")));
    for other in [
        "/services",
        "/services/web",
        "/services/web/a/b",
        "/services/Web/a",
        "/other/web/a",
        "/servicesx/w/a",
    ] {
        assert_eq!(of_path(other), None, "{other}");
    }
    assert!(service_path("a/b").is_err() && instance_path("a", "-").is_err() && service_path("").is_err());
}

/// What is taken encodes again to the same, within the limits, and is named in a path that leads back.
#[test]
fn any_contents() {
    fuzz!("instance", |bytes| {
        let decoded = within_bytes((32 << 10) + 64 * bytes.len(), || Instance::decode(bytes));
        match decoded {
            Err(error) => assert!(error.to_string().len() < 4096),
            Ok(instance) => {
                if let Ok(again) = instance.encode() {
                    assert_eq!(Instance::decode(&again), Ok(instance));
                }
            }
        }
        if let Some((service, id)) = std::str::from_utf8(bytes).ok().and_then(of_path) {
            assert_eq!(instance_path(service, id).unwrap().as_bytes(), bytes);
        }
    });
}
