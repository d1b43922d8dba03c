use http::{
    HeaderMap, HeaderName, HeaderValue, Request,
    header::{CONNECTION, TE},
};
use proptest::prelude::*;

use super::{headers::*, *};

/// A request as a codec would hand it over.
fn parts(version: Version, method: &str, target: &str, hosts: &[&str]) -> Parts {
    let mut request = Request::builder().version(version).method(method).uri(target);
    for host in hosts {
        request = request.header(HOST, *host);
    }
    request.body(()).unwrap().into_parts().0
}

fn get(target: &str) -> Parts {
    parts(Version::HTTP_11, "GET", target, &["app.ns.svc"])
}

/// What goes upstream and what rules see.
fn forms(target: &str) -> Result<(String, Option<String>), Refusal> {
    let mut parts = get(target);
    let normal = normalise(&mut parts)?;
    let view = normal.view(&parts);
    Ok((parts.uri.to_string(), view.path.map(str::to_owned)))
}

fn matched(target: &str) -> String {
    forms(target).unwrap().1.unwrap()
}

fn refused(target: &str) -> Refusal {
    forms(target).unwrap_err()
}

fn host(parts: &mut Parts) -> Result<(String, String), Refusal> {
    let normal = normalise(parts)?;
    let name = normal.view(parts).host.unwrap_or_default().to_owned();
    assert!(parts.uri.authority().is_none() || parts.method == Method::CONNECT);
    Ok((name, parts.headers.get(HOST).map_or(String::new(), |h| h.to_str().unwrap().to_owned())))
}

#[test]
fn plain_requests_are_left_alone() {
    for target in ["/", "/a", "/a/b.c/d~e_f-g", "/a/b/", "/x?y=%2f..;//&z=\\", "/a:b@c!$&'()*+,=", "/{a}/*|"] {
        let (wire, path) = forms(target).unwrap();
        assert_eq!(wire, target);
        assert_eq!(path.unwrap(), target.split('?').next().unwrap());
    }
}

#[test]
fn b01_b02_dot_segments() {
    for target in [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/%2E./admin/x",
        "/public/.%2e/admin",
        "/./admin/x",
        "/a/.",
        "/a/..",
        "/..",
        "/public/..;/admin",
        "/public/..;a=b/admin",
        "/public/%2e%2e%3b/admin",
        "/public/.;/admin",
    ] {
        assert_eq!(refused(target), Refusal::DotSegment, "{target}");
    }
    assert_eq!(matched("/.well-known/x"), "/.well-known/x");
    assert_eq!(matched("/a/...b"), "/a/...b");
}

#[test]
fn b03_empty_segments_are_merged_for_rules_only() {
    assert_eq!(forms("//admin/x").unwrap(), ("//admin/x".into(), Some("/admin/x".into())));
    assert_eq!(matched("/a//b///c//"), "/a/b/c/");
    assert_eq!(matched("//"), "/");
    assert_eq!(refused("/public//../admin"), Refusal::DotSegment);
}

#[test]
fn b04_b05_separators() {
    for target in ["/public%2f..%2fadmin/x", "/%2Fadmin/x", "/public%5c..%5cadmin", "/public\\..\\admin"] {
        assert_eq!(refused(target), Refusal::Separator, "{target}");
    }
}

#[test]
fn b06_nul() {
    assert_eq!(refused("/admin%00"), Refusal::Nul);
    assert_eq!(refused("/public/%00/../admin"), Refusal::Nul);
}

#[test]
fn b07_parameters_stay_on_the_wire_and_out_of_rules() {
    for (target, path) in
        [("/admin;a=b/x", "/admin/x"), ("/admin;", "/admin"), ("/a/;s=1", "/a/"), ("/admin%3Bx/y", "/admin/y")]
    {
        assert_eq!(forms(target).unwrap(), (target.to_owned(), Some(path.to_owned())));
    }
    assert_eq!(matched("/admin;/x"), "/admin/x");
    assert_eq!(refused("/;/admin"), Refusal::EmptySegment);
}

#[test]
fn b10_fragments() {
    assert_eq!(check_raw_target(b"/admin#x"), Err(Refusal::Fragment));
    assert_eq!(check_raw_target(b"/public#/../admin"), Err(Refusal::Fragment));
    assert_eq!(check_raw_target(b"/a?b#c"), Err(Refusal::Fragment));
    assert_eq!(check_raw_target(b"/a b"), Err(Refusal::Target));
    assert_eq!(check_raw_target(b"/a\xff"), Err(Refusal::Target));
    assert_eq!(check_raw_target(b"/a?b"), Ok(()));
    // Where the first sidecar lets it pass, the second one does.
    assert_eq!(check_raw_target(b"/a?b\\c"), Ok(()));
    assert_eq!(check_raw_target(b"/a\\?b"), Err(Refusal::Separator));
}

#[test]
fn b11_query_is_no_part_of_the_path() {
    assert_eq!(matched("/admin?x"), "/admin");
    assert_eq!(matched("/admin?"), "/admin");
}

#[test]
fn b12_unreserved_characters_are_decoded_on_the_wire_too() {
    assert_eq!(forms("/%61dmin/x?q=%61").unwrap(), ("/admin/x?q=%61".into(), Some("/admin/x".into())));
    assert_eq!(forms("/a%20b%c3%a9").unwrap(), ("/a%20b%c3%a9".into(), Some("/a b\u{e9}".into())));
}

#[test]
fn b13_decoded_once() {
    assert_eq!(forms("/%2561dmin").unwrap(), ("/%2561dmin".into(), Some("/%2561dmin".into())));
    assert_eq!(matched("/%252e%252e/admin"), "/%252e%252e/admin");
    assert_eq!(matched("/a%0ab"), "/a%0Ab");
}

#[test]
fn b14_not_utf8() {
    assert_eq!(refused("/public/%c0%ae%c0%ae/admin"), Refusal::NotUtf8);
    assert_eq!(refused("/public/%uff0e"), Refusal::Escape);
    assert_eq!(refused("/%ff"), Refusal::NotUtf8);
}

#[test]
fn b15_bad_escapes() {
    for target in ["/public/%", "/%2", "/%zz", "/%2g", "/%+1"] {
        assert_eq!(refused(target), Refusal::Escape, "{target}");
    }
}

#[test]
fn b19_asterisk() {
    assert_eq!(refused("*"), Refusal::Target);
    let mut options = parts(Version::HTTP_11, "OPTIONS", "*", &["a"]);
    let normal = normalise(&mut options).unwrap();
    assert_eq!((options.uri.to_string().as_str(), normal.view(&options).path), ("*", None));
    assert!(normalise(&mut parts(Version::HTTP_11, "OPTIONS", "*", &[""])).is_ok());
}

#[test]
fn b20_absolute_form_is_origin_form() {
    let mut absolute = get("http://app.ns.svc/admin/x?y");
    let normal = normalise(&mut absolute).unwrap();
    assert_eq!(absolute.uri, "/admin/x?y");
    assert_eq!(normal.view(&absolute).path, Some("/admin/x"));
    let mut bare = get("http://app.ns.svc?y");
    assert_eq!(normalise(&mut bare).map(|_| bare.uri.to_string()), Ok("/?y".into()));
    assert_eq!(refused("ftp://app.ns.svc/x"), Refusal::Scheme);
}

#[test]
fn an_empty_path_is_judged_and_sent_as_a_slash() {
    // The last two are what HTTP/2 makes of the `:path` `?y` and `#x`, without and with an `:authority`.
    let query: PathAndQuery = "?y".parse().unwrap();
    let nothing: PathAndQuery = "#x".parse().unwrap();
    let absolute = Uri::builder().scheme("http").authority("app.ns.svc").path_and_query(nothing).build().unwrap();
    for (uri, sent) in [
        ("http://app.ns.svc".parse().unwrap(), "/"),
        ("http://app.ns.svc?y".parse().unwrap(), "/?y"),
        (Uri::from(query), "/?y"),
        (absolute, "/"),
    ] {
        let mut parts = get("/");
        parts.uri = uri;
        let normal = normalise(&mut parts).unwrap();
        assert_eq!(parts.uri.path_and_query().map(PathAndQuery::as_str), Some(sent));
        assert_eq!((parts.uri.path(), normal.view(&parts).path), ("/", Some("/")));
    }
}

#[test]
fn b21_method_case() {
    for method in ["get", "Get", "dELETE"] {
        let mut parts = parts(Version::HTTP_11, method, "/", &["a"]);
        assert_eq!(normalise(&mut parts), Err(Refusal::MethodCase), "{method}");
    }
    for method in ["GET", "PURGE", "PROPFIND", "M-SEARCH", "custom"] {
        assert!(normalise(&mut parts(Version::HTTP_11, method, "/", &["a"])).is_ok(), "{method}");
    }
}

#[test]
fn b22_c10_c12_c14_reserved_fields_are_removed() {
    let mut headers = HeaderMap::new();
    for name in [
        "mesh-client-id",
        "mesh_client_id",
        "mesh-anything",
        "x-forwarded-client-cert",
        "x-forwarded_client_cert",
        "x-envoy-original-path",
        "content_length",
        "transfer_encoding",
        "x-keep",
        "meshed",
        "content-length",
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("a"));
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(b"\xff").unwrap());
    }
    assert_eq!(strip_reserved(&mut headers), 8);
    let mut left: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-length", "meshed", "x-keep"]);
}

#[test]
fn b23_long_paths_take_linear_time() {
    let path = "/a%41".repeat(3000);
    assert_eq!(matched(&path).len(), 9000);
    assert_eq!(refused(&"/a/..".repeat(3000)), Refusal::DotSegment);
}

#[test]
fn c01_two_hosts() {
    assert_eq!(host(&mut parts(Version::HTTP_11, "GET", "/", &["a", "a"])), Err(Refusal::HostRepeated));
}

#[test]
fn c02_c07_no_host() {
    assert_eq!(host(&mut parts(Version::HTTP_11, "GET", "/", &[])), Err(Refusal::HostMissing));
    assert_eq!(host(&mut parts(Version::HTTP_2, "GET", "/", &[])), Err(Refusal::HostMissing));
    assert_eq!(host(&mut parts(Version::HTTP_10, "GET", "/", &[])), Ok((String::new(), String::new())));
}

#[test]
fn c03_bad_hosts() {
    let long = "a".repeat(254);
    for text in [
        "a, b",
        "a,b",
        "u@a",
        "a/b",
        "a b",
        "a:99999",
        "a:65536",
        "a:0",
        "a:",
        "a:080",
        "a:1x",
        "[::1",
        "[::1]x",
        "[]",
        "[fe80::1%25e]",
        "::1",
        "a:1:2",
        "%61",
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "\u{e9}",
        &long,
    ] {
        let mut parts = parts(Version::HTTP_11, "GET", "/", &[text]);
        assert_eq!(host(&mut parts), Err(Refusal::HostInvalid), "{text:?}");
    }
}

#[test]
fn c04_target_wins_over_host() {
    let mut absolute = parts(Version::HTTP_11, "GET", "http://B:81/x", &["a"]);
    assert_eq!(host(&mut absolute), Ok(("b".into(), "b:81".into())));
    assert_eq!(absolute.uri, "/x");
}

#[test]
fn c05_c06_authority() {
    let two = |authority: &str, hosts: &[&str]| {
        host(&mut parts(Version::HTTP_2, "GET", &format!("http://{authority}/x"), hosts))
    };
    assert_eq!(two("a", &["b"]), Err(Refusal::HostConflict));
    assert_eq!(two("a", &["a", "a"]), Err(Refusal::HostRepeated));
    assert_eq!(two("u@a", &[]), Err(Refusal::HostInvalid));
    assert_eq!(two("A.ns:80", &["a.ns.:80"]), Ok(("a.ns".into(), "a.ns:80".into())));
    assert_eq!(two("a", &[]), Ok(("a".into(), "a".into())));
}

#[test]
fn c08_hosts_have_one_form() {
    for (text, name, sent) in [
        ("APP.ns.SVC", "app.ns.svc", "app.ns.svc"),
        ("app.ns.svc.", "app.ns.svc", "app.ns.svc"),
        ("app.ns.svc:80", "app.ns.svc", "app.ns.svc:80"),
        ("App.ns.svc.:80", "app.ns.svc", "app.ns.svc:80"),
        ("[::A]:80", "[::a]", "[::a]:80"),
        ("127.0.0.1:9", "127.0.0.1", "127.0.0.1:9"),
    ] {
        let mut parts = parts(Version::HTTP_11, "GET", "/", &[text]);
        assert_eq!(host(&mut parts), Ok((name.to_owned(), sent.to_owned())), "{text}");
    }
}

#[test]
fn d26_http2_targets() {
    let mut ftp = parts(Version::HTTP_2, "GET", "ftp://a/x", &[]);
    assert_eq!(normalise(&mut ftp), Err(Refusal::Scheme));
}

#[test]
fn g04_hop_by_hop_fields_are_removed() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, x-hop"),
        ("connection", "mesh-client-id,HOST , x-forwarded-for,x-two"),
        ("x-hop", "1"),
        ("x-two", "1"),
        ("mesh-client-id", "ours"),
        ("host", "a"),
        ("x-forwarded-for", "1.2.3.4"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("upgrade", "websocket"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let hop = strip_hop_by_hop(&mut headers);
    assert_eq!(hop, Hop { close: true, keep_alive: false, upgrade: None });
    let mut left: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["host", "mesh-client-id", "x-forwarded-for"]);
}

#[test]
fn g06_te_trailers_stays() {
    let mut headers = HeaderMap::new();
    headers.append(TE, HeaderValue::from_static("gzip;q=1, Trailers"));
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers.get(TE).unwrap(), "trailers");
}

#[test]
fn g10_h2c_upgrade_is_dropped() {
    let upgrade = |connection: &'static str, protocol: &'static str| {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static(connection));
        headers.append("upgrade", HeaderValue::from_static(protocol));
        headers.append("http2-settings", HeaderValue::from_static("AAMAAABk"));
        let hop = strip_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
        hop.upgrade
    };
    assert_eq!(upgrade("Upgrade, HTTP2-Settings", "h2c"), None);
    assert_eq!(upgrade("upgrade", "websocket, H2C"), None);
    assert_eq!(upgrade("keep-alive", "websocket"), None);
    assert_eq!(upgrade("keep-alive, Upgrade", "websocket").unwrap(), "websocket");
}

#[test]
fn g16_connect_forms() {
    for (target, version) in
        [("/", Version::HTTP_11), ("*", Version::HTTP_11), ("host", Version::HTTP_11), ("u@h:1", Version::HTTP_11)]
    {
        let mut parts = parts(version, "CONNECT", target, &["h:1"]);
        assert_eq!(normalise(&mut parts), Err(Refusal::Connect), "{target}");
    }
    let mut good = parts(Version::HTTP_11, "CONNECT", "Host.:443", &["host:443"]);
    assert_eq!(host(&mut good), Ok(("host".into(), "host:443".into())));
    assert_eq!(good.uri, "host:443");
    let mut other = parts(Version::HTTP_11, "CONNECT", "host:443", &["b:443"]);
    assert_eq!(normalise(&mut other), Err(Refusal::HostConflict));
    let mut extended = parts(Version::HTTP_2, "CONNECT", "http://a/chat", &[]);
    let normal = normalise(&mut extended).unwrap();
    assert_eq!(normal.view(&extended).path, Some("/chat"));
}

#[test]
fn rules_are_brought_into_the_same_form() {
    for (rule, path) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a//b/", "/a/b/"),
        ("/%61%20b", "/a b"),
        ("/caf\u{e9} x", "/caf\u{e9} x"),
        ("/caf%C3%A9", "/caf\u{e9}"),
        ("/100%", "/100%25"),
        ("/100%25", "/100%25"),
        ("/%7B*}", "/{*}"),
    ] {
        assert_eq!(rule_path(rule).as_deref(), Some(path), "{rule}");
    }
    for rule in ["", "a", "/a;b", "/a%2fb", "/a/../b", "/%00", "/%ff", "/a\\b", "/%3b"] {
        assert_eq!(rule_path(rule), None, "{rule}");
    }
}

proptest! {
    /// Whatever is let through: normalising again changes nothing, and what is matched hides nothing.
    #[test]
    fn normal_is_normal(target in "/([/.;%a2-9ef\\\\#?é]|%[0-9a-fA-F]{2}|\\.\\.|%2[eEfF]){0,12}") {
        let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
        let mut parts = get("/");
        parts.uri = uri;
        let Ok(first) = normalise(&mut parts) else { return Ok(()) };
        let seen = first.view(&parts).path.unwrap().to_owned();
        let sent = parts.uri.clone();
        let second = normalise(&mut parts).unwrap();
        prop_assert_eq!(&parts.uri, &sent);
        prop_assert_eq!(second.view(&parts).path.unwrap(), &seen);
        prop_assert!(!seen.contains("//") && !seen.contains(';') && !seen.contains('\\') && !seen.contains('\0'));
        prop_assert!(!seen.split('/').any(|segment| segment == "." || segment == ".."));
        prop_assert_eq!(rule_path(&seen), Some(seen.clone()));
    }

    #[test]
    fn any_host_is_refused_or_normal(text in "[a-cA-C.:@0-9\\[\\]_%, -]{0,12}") {
        let Ok(value) = HeaderValue::from_str(&text) else { return Ok(()) };
        let mut parts = get("/");
        parts.headers.insert(HOST, value);
        let Ok((name, sent)) = host(&mut parts) else { return Ok(()) };
        prop_assert_eq!(host(&mut parts), Ok((name.clone(), sent.clone())));
        prop_assert!(sent.starts_with(&name) && !name.ends_with('.') && name == name.to_lowercase());
        prop_assert!(sent.parse::<Authority>().is_ok());
    }
}

#[test]
fn each_connection_specific_field_is_seen_by_itself() {
    for name in ["connection", "keep-alive", "proxy-connection", "http2-settings", "te", "upgrade"] {
        let mut fields = HeaderMap::new();
        fields.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        strip_hop_by_hop(&mut fields);
        assert!(fields.is_empty(), "{name}");
    }
}
