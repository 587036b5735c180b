//! The status page in a real browser: its requests, its behaviour, and its appearance. `UPDATE=1 cargo
//! nextest run --test it page::` takes the pictures in docs/images again.

pub(crate) mod fixture;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::browser::Browser;
use serde_json::Value;
use usernsd_report::http::{self, HttpServer, Protection, Routes};
use usernsd_report::page::{self, PageInput};
use usernsd_report::state::State;

/// The served state: the agent's last document and its age.
type Shown = Arc<Mutex<(Option<State>, Duration)>>;

/// 2026-11-20T10:41:07Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_171_267)
}

fn serve(state: State) -> (HttpServer, Shown) {
    let shown: Shown = Arc::new(Mutex::new((Some(state), Duration::ZERO)));
    let (page_of, state_of) = (Arc::clone(&shown), Arc::clone(&shown));
    let routes = Routes {
        page: Box::new(move || {
            let (state, age) = &*page_of.lock().unwrap();
            page::render(&PageInput { state: state.as_ref(), age: *age, now: now() })
        }),
        metrics: Box::new(|| Box::pin(async { Some(String::new()) })),
        partial_metrics: None,
        state: Box::new(move || Ok(state_of.lock().unwrap().0.as_ref().unwrap().render())),
        healthy: Box::new(|| Ok(())),
        ready: Box::new(|| Ok(())),
    };
    let listener = http::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let open = Protection { tls: None, gate: None, report: Box::new(|_| ()) };
    (http::serve(listener, routes, open).unwrap(), shown)
}

fn url(server: &HttpServer) -> String {
    format!("http://{}/", server.address())
}

/// A script that runs in the page and returns its problems: no two texts may overlap, nothing may be wider
/// than the window, and every picture needs a name, every control a label, every text enough contrast.
const LOOK: &str = include_str!("../page/look.js");

#[track_caller]
fn assert_sound(browser: &mut Browser, what: &str) {
    let found = browser.eval(LOOK);
    assert_eq!(found, Value::Array(vec![]), "{what}: {found:#}");
}

// === structure ===

#[test]
fn the_page_is_sound_in_every_size_and_scheme() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    for (name, state) in [
        ("well", fixture::well()),
        ("problems", fixture::problems()),
        ("empty", fixture::empty()),
        ("large", fixture::large()),
        ("hostile", fixture::hostile()),
    ] {
        let (server, _) = serve(state);
        for (width, scheme) in
            [(1160, "light"), (1160, "dark"), (400, "light"), (400, "dark"), (800, "light")]
        {
            let what = format!("{name}, {width} px, {scheme}");
            browser.look(width, 1000, scheme);
            browser.open(&url(&server));
            if let Some(dir) = std::env::var_os("SHOTS") {
                let picture = browser.screenshot(true);
                std::fs::write(Path::new(&dir).join(format!("{name}-{width}-{scheme}.b64")), picture)
                    .unwrap();
            }
            assert_sound(&mut browser, &what);
            browser.assert_quiet(&url(&server), &what);
        }
    }
}

#[test]
fn each_problem_of_a_page_is_found() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let (server, _) = serve(fixture::problems());
    browser.look(1160, 1000, "light");
    for (breakage, want) in [
        ("document.querySelector('header').style.cssText = 'margin-bottom: -60px'", "overlap"),
        ("document.querySelector('table').style.cssText = 'width: 3000px'", "wider than the window"),
        ("document.querySelector('.strip svg').removeAttribute('aria-label')", "no name"),
        ("document.querySelector('.quiet').style.color = '#aaa'", "contrast"),
        ("document.querySelector('caption').remove()", "table"),
        ("document.body.append(document.querySelector('tr[id]').cloneNode(true))", "an ID twice"),
    ] {
        browser.open(&url(&server));
        browser.eval(breakage);
        let found = browser.eval(LOOK).to_string();
        assert!(found.contains(want), "{breakage}: {found}");
    }
    // The browser enforces the page's content security policy.
    browser.open(&url(&server));
    browser.events();
    browser.eval(
        "document.body.insertAdjacentHTML('beforeend', '<b style=\"color: red\">x</b><img src=/x.png>')",
    );
    browser.wait_for("document.querySelector('img').complete");
    let output: Vec<String> = browser.events().iter().map(|event| event["params"].to_string()).collect();
    assert!(output.iter().any(|output| output.contains("style-src")), "{output:#?}");
    assert!(output.iter().any(|output| output.contains("img-src")), "{output:#?}");
}

#[test]
fn the_policy_has_the_digests_of_the_pages_own_bytes() {
    for state in [fixture::well(), fixture::hostile()] {
        let page = page::render(&PageInput::now(&state));
        for (name, directive) in [("style", "style-src"), ("script", "script-src")] {
            let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
            assert_eq!(
                (page.html.matches(&begin).count(), page.html.matches(&end).count()),
                (1, 1),
                "{name}"
            );
            let text = page.html.split(&begin).nth(1).unwrap().split(&end).next().unwrap();
            let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            let digest = usernsd_domain::ignition::bytes::base64(digest.as_ref());
            let want = format!("{directive} 'sha256-{digest}';");
            assert!(page.policy.contains(&want), "{want}: {}", page.policy);
        }
        assert!(
            page.policy.starts_with("default-src 'none';") && !page.policy.contains("unsafe"),
            "{}",
            page.policy
        );
        assert!(
            !page.html.contains(" style=") && !page.html.contains("http://w") | page.html.contains("xmlns")
        );
    }
}

#[test]
fn hostile_names_are_shown_as_text() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let (server, _) = serve(fixture::hostile());
    browser.look(1160, 1000, "light");
    browser.open(&url(&server));
    assert_eq!(browser.eval("document.scripts.length"), 1);
    assert_eq!(
        browser.eval("document.querySelectorAll('img, iframe, object, form, a:not(nav a)').length"),
        0
    );
    let handlers = "[...document.querySelectorAll('*')].flatMap((element) => [...element.attributes])\
                    .filter((attribute) => attribute.name.startsWith('on')).length";
    assert_eq!(browser.eval(handlers), 0);
    let title = browser.eval("document.title");
    assert!(
        title.as_str().unwrap().starts_with("</script></style><script>document.title='pwned'"),
        "{title}"
    );
    let turned = "/[\\u202a-\\u202e\\u2066-\\u2069\\u200e\\u200f\\u0000\\u001b]/.test(document.documentElement.outerHTML)";
    assert_eq!(browser.eval(turned), false);
    // The same if the page is replaced in place.
    browser.eval("document.dispatchEvent(new Event('visibilitychange'))");
    browser.wait_for(
        "performance.getEntriesByType('resource').some((entry) => entry.initiatorType === 'fetch')",
    );
    assert_sound(&mut browser, "hostile, live");
    browser.assert_quiet(&url(&server), "hostile");
}

// === behaviour ===

#[test]
fn a_change_appears_and_the_rest_stays_in_place() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let (server, shown) = serve(fixture::large());
    browser.look(1160, 600, "light");
    browser.open(&url(&server));
    browser.eval("window.mark = 1; document.querySelector('#rest').open = true; scrollTo(0, 2000)");
    browser.eval(
        "document.querySelector('#filter').focus(); document.querySelector('#filter').value = 'LEDGER ok'",
    );
    browser.eval("document.querySelector('#filter').dispatchEvent(new Event('input', { bubbles: true }))");
    let rows = "[...document.querySelectorAll('#containers tbody tr')].filter((row) => !row.hidden).length";
    let before = browser.eval(rows).as_u64().unwrap();
    assert!((1..100).contains(&before), "{before}");
    assert_eq!(browser.eval("document.querySelector('#shown').textContent"), format!("{before} of 500"));
    // The visible part stays in place, whatever is inserted above it.
    browser.eval("scrollTo(0, 1100)");
    let place = "(() => { const row = document.querySelectorAll('#rest tbody tr:not([hidden])')[15]; \
                 return Math.round(row.getBoundingClientRect().top); })()";
    let top = browser.eval(place);
    assert!((0..600).contains(&top.as_i64().unwrap()), "{top}");

    // A pod with a problem appears, a change is made, time passes.
    let mut next = fixture::problems();
    next.containers.retain(|container| container.name == "dind" && container.state.as_str() == "owner_wrong");
    let mut state = fixture::large();
    next.containers[0].name = "ledger not ok".into();
    next.containers[0].id = "fee1".into();
    state.containers.append(&mut next.containers);
    let mut event = state.events[1].clone();
    event.number = 10;
    event.sentence = "cgroup given to host ID 4711".into();
    state.events.insert(0, event);
    shown.lock().unwrap().0 = Some(state);
    // As when its tab becomes visible; otherwise it takes some seconds.
    browser.eval("document.dispatchEvent(new Event('visibilitychange'))");
    browser.wait_for("document.title === 'worker-large: 1 problem'");
    assert_eq!(browser.eval(rows), before + 1, "the filter holds");
    assert_eq!(browser.eval("document.querySelector('#cfee1').hidden"), false);
    assert_eq!(browser.eval("document.querySelector('.feed p').textContent.includes('4711')"), true);
    assert_eq!(browser.eval("document.querySelector('#icon').href.includes('d92d3a')"), true);
    for (what, kept) in [
        ("the page", "window.mark === 1"),
        ("an open part", "document.querySelector('#rest').open"),
        ("the focus", "document.activeElement.id === 'filter'"),
        ("what was typed", "document.querySelector('#filter').value === 'LEDGER ok'"),
    ] {
        assert_eq!(browser.eval(kept), true, "{what} was lost");
    }
    assert_eq!(browser.eval(place), top, "the place was lost");
    // The page also updates by itself.
    shown.lock().unwrap().0 = Some(fixture::large());
    browser.wait_for("document.title === 'worker-large: all well'");
    assert_eq!(browser.eval("window.mark"), 1);
    browser.assert_quiet(&url(&server), "live");

    // A click on a slot leads to its pod.
    browser.eval("document.querySelectorAll('.row i.pod')[100].click()");
    let found = "[...document.querySelectorAll('tr.found')].every((row) => row.dataset.pod === \
                 document.querySelectorAll('.row i.pod')[100].dataset.pod) && \
                 document.querySelectorAll('tr.found').length === 2";
    assert_eq!(browser.eval(found), true);
}

/// Waits until the server renders the page again: it reuses one for up to a second.
fn until_rendered_again() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn the_page_reports_that_the_agent_does_not_answer() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let (server, shown) = serve(fixture::well());
    browser.look(1160, 1000, "light");
    browser.open(&url(&server));
    // The agent is away, and its last document is shown.
    shown.lock().unwrap().1 = Duration::from_secs(185);
    until_rendered_again();
    browser.open(&url(&server));
    let output = browser.eval("document.querySelector('#verdict').innerText");
    assert!(output.as_str().unwrap().contains("The agent has not answered for 3 min"), "{output}");
    assert_eq!(browser.eval("document.title"), "worker-3: the agent does not answer");
    assert_eq!(browser.eval("document.querySelector('time').textContent"), "10:38:02 UTC");
    assert_sound(&mut browser, "away");
    // There was never a document.
    shown.lock().unwrap().0 = None;
    until_rendered_again();
    browser.open(&url(&server));
    let output = browser.eval("document.querySelector('#verdict').innerText");
    assert!(output.as_str().unwrap().contains("is the agent running?"), "{output}");
    assert_sound(&mut browser, "never there");
    browser.assert_quiet(&url(&server), "away");
    // The page's server is gone.
    drop(server);
    browser.wait_for("!document.querySelector('#silent').hidden");
    assert_sound(&mut browser, "silent");
}

#[test]
fn the_page_has_the_same_content_without_scripts() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let (server, _) = serve(fixture::problems());
    browser.look(1160, 1000, "light");
    browser.call("Emulation.setScriptExecutionDisabled", serde_json::json!({"value": true}));
    browser.open(&url(&server));
    let output = browser.eval("document.body.innerText");
    let output = output.as_str().unwrap();
    for want in
        ["5 problems", "isolation lost", "29 of 110 slots used", "1900544–1966079", "because no script runs"]
    {
        assert!(output.contains(want), "{want}: {output}");
    }
    assert_eq!(browser.eval("document.querySelector('meta[http-equiv=refresh]').content"), "15");
    assert_eq!(browser.eval("getComputedStyle(document.querySelector('.filter')).display"), "none");
    assert_sound(&mut browser, "without a script");
}

// === appearance ===

/// How many of a thousand pixels differ by more than anti-aliasing explains.
const COMPARE: &str = "(async (one, other) => {
  const pixels = async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes]));
    const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
    canvas.drawImage(image, 0, 0);
    return canvas.getImageData(0, 0, image.width, image.height);
  };
  const [a, b] = [await pixels(one), await pixels(other)];
  if (a.width !== b.width || a.height !== b.height) return 1000;
  let differ = 0;
  for (let i = 0; i < a.data.length; i += 4)
    differ += [0, 1, 2].some((part) => Math.abs(a.data[i + part] - b.data[i + part]) > 64);
  return differ * 4000 / a.data.length;
})";

#[test]
fn the_page_looks_as_in_the_docs() {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let (server, _) = serve(fixture::problems());
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    let mut pictures = Vec::new();
    for scheme in ["light", "dark"] {
        browser.look(1160, 1120, scheme);
        browser.open(&url(&server));
        let picture = browser.screenshot(false);
        let path = images.join(format!("status-page-{scheme}.png"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&images).unwrap();
            std::fs::write(&path, usernsd_domain::ignition::bytes::from_base64(&picture).unwrap()).unwrap();
        }
        let known = usernsd_domain::ignition::bytes::base64(&std::fs::read(&path).unwrap_or_default());
        assert!(!known.is_empty(), "{} is missing; UPDATE=1 writes it", path.display());
        let differ = browser.eval(&format!("{COMPARE}('{known}', '{picture}')")).as_f64().unwrap();
        assert!(differ < 10.0, "{}: {differ} ‰ of it differ; UPDATE=1 writes it anew", path.display());
        pictures.push(picture);
    }
    let differ = browser.eval(&format!("{COMPARE}('{}', '{}')", pictures[0], pictures[1]));
    assert!(differ.as_f64().unwrap() > 500.0, "light and dark are told apart: {differ}");
}

#[test]
fn the_page_is_small() {
    for (state, most) in [(fixture::problems(), 96 << 10), (fixture::large(), 512 << 10)] {
        let size = page::render(&PageInput::now(&state)).html.len();
        println!("{} containers: {size} bytes", state.containers.len());
        assert!(size < most, "{size}");
    }
}
