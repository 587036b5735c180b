use super::*;

fn state(text: &serde_json::Value) -> State {
    serde_json::from_value(text.clone()).unwrap()
}

fn small() -> State {
    let peer = serde_json::json!({"state": "up", "since": "", "reconnects": 0, "lastError": null});
    state(&serde_json::json!({
        "version": 1, "node": {"name": "n1", "runtime": null}, "agent": {"version": "0", "startedAt": ""},
        "peers": {"cri": peer, "nri": peer, "systemd": peer}, "containers": [],
    }))
}

#[test]
fn the_title_is_the_verdict() {
    let title = |seen: &PageInput<'_>| {
        let html = render(seen).html;
        html.split("<title>").nth(1).unwrap().split("</title>").next().unwrap().to_owned()
    };
    let now = SystemTime::now();
    let mut node = small();
    // A document of an agent that cannot read the files.
    assert_eq!(title(&PageInput::now(&node)), "n1: 1 problem");
    node.id_space = serde_json::from_value(serde_json::json!({
        "pools": [], "overlaps": {}, "subordinateRanges": [], "accounts": [],
    }))
    .unwrap();
    assert_eq!(title(&PageInput::now(&node)), "n1: all well");
    let old = |age| PageInput { state: Some(&node), age, now };
    assert_eq!(title(&old(FRESH - Duration::from_secs(1))), "n1: all well");
    assert_eq!(title(&old(FRESH)), "n1: the agent does not answer");
    let never = PageInput { state: None, age: Duration::ZERO, now };
    assert_eq!(title(&never), "usernsd: the agent does not answer");
}

#[test]
fn spans_have_one_unit() {
    for (seconds, want) in [(11, "11 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h")]
    {
        assert_eq!(span(Duration::from_secs(seconds)), want);
    }
}
