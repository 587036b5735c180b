//! What holds of a plan for any lines in the files and any settings.

use proptest::prelude::*;

use super::*;

fn some_lines() -> impl Strategy<Value = String> {
    let owner = prop_oneof![
        Just("containers"),
        Just("core"),
        Just("kubelet"),
        Just("alice"),
        Just("1000"),
        Just("991"),
    ];
    let start = prop_oneof![Just(65_536_u64), Just(131_072), Just(200_000), 0..5_000_000_000_u64];
    let count = prop_oneof![Just(65_536_u64), Just(7_208_960), Just(14_417_920), 1..300_000_000_u64];
    let line = prop_oneof![
        8 => (owner.clone(), start, count).prop_map(|(owner, start, count)| format!("{owner}:{start}:{count}\n")),
        1 => owner.prop_map(|owner| format!("{owner}:0x10000:65536\r\n")),
        1 => "[a-z#:0-9 ]{0,12}\n",
    ];
    proptest::collection::vec(line, 0..6).prop_map(|lines| lines.concat())
}

fn some_desired_ids() -> impl Strategy<Value = DesiredIds> {
    let one = (
        prop_oneof![Just("containers"), Just("core"), Just("other")],
        proptest::option::of(0..5_000_000_000_u64),
        1..300_000_000_u64,
    )
        .prop_map(|(owner, start, count)| DesiredRange { owner: owner.into(), start, count });
    let ranges = proptest::option::of(one.prop_map(|one| vec![one]));
    let user = prop_oneof![Just(KubeletUser::IfPresent), Just(KubeletUser::Create), Just(KubeletUser::Never)];
    (ranges, user, proptest::option::of(1..600_u64), proptest::option::of(1..5_u64)).prop_map(
        |(ranges, user, max_pods, size)| DesiredIds {
            ranges,
            kubelet: KubeletOptions {
                user,
                max_pods,
                ids_per_pod: size.map(|size| size * 65_536),
                ..KubeletOptions::default()
            },
        },
    )
}

/// The kubelet's rules, implemented again: `getsubids` prints every line of the name or number; there must be one,
/// the same in both files, and its range must be valid.
fn kubelet_starts(node: &NodeIds, max_pods: u64, ids_per_pod: u64) -> bool {
    let passwd = String::from_utf8(node.account_files[3].clone().unwrap()).unwrap();
    let Some(user) = passwd.lines().find(|line| line.starts_with("kubelet:")) else { return true };
    let uid = user.split(':').nth(2).unwrap();
    let getsubids = |bytes: &Option<Vec<u8>>| -> Vec<String> {
        let text = String::from_utf8(bytes.clone().unwrap_or_default()).unwrap();
        text.split('\n')
            .filter(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                fields.len() == 3
                    && (fields[0] == "kubelet" || fields[0] == uid)
                    && fields[1..].iter().all(|field| field.parse::<u64>().is_ok())
            })
            .map(|line| line.split_once(':').unwrap().1.to_owned())
            .collect()
    };
    let (uids, gids) = (getsubids(&node.subuid), getsubids(&node.subgid));
    let ([uid], [gid]) = (uids.as_slice(), gids.as_slice()) else { return false };
    let (start, count) = uid.split_once(':').unwrap();
    let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else { return false };
    let (start, count) = (u64::from(start), u64::from(count));
    uid == gid
        && start % ids_per_pod == 0
        && start >= ids_per_pod
        && count % ids_per_pod == 0
        && count / ids_per_pod >= max_pods
        && start + count <= 4_294_901_760
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_plan_is_idempotent_keeps_other_lines_and_suits_the_kubelet(
        uids in some_lines(), gids in some_lines(), same: bool, desired in some_desired_ids(), has_core: bool, has_kubelet: bool,
    ) {
        let gids = if same { uids.clone() } else { gids };
        let mut passwd = PASSWD.to_owned();
        if has_core { passwd.push_str("core:x:1000:1000:::\n") }
        if has_kubelet { passwd.push_str("kubelet:x:991:991:::\n") }
        let before = node(Some(&uids), Some(&gids), &passwd);
        let Ok(found) = plan(&before, &desired) else { return Ok(()) };
        let after = applied(&before, &found);
        let again = plan(&after, &desired);
        prop_assert_eq!(again.map(|plan| plan.changes), Ok(Vec::new()), "{:?}", found.changes);
        if desired.kubelet.user != KubeletUser::Never {
            let max_pods = desired.kubelet.max_pods.unwrap_or(110);
            prop_assert!(kubelet_starts(&after, max_pods, desired.kubelet.ids_per_pod.unwrap_or(65_536)), "{after:?}");
        }
        // Alice's lines, comments and malformed lines are all kept, in their order.
        let ours = |line: &&str| !["containers", "core", "kubelet", "other", "1000", "991"]
            .contains(&line.split(':').next().unwrap_or_default().trim());
        for (before, after) in [(&uids, &after.subuid), (&gids, &after.subgid)] {
            let text = String::from_utf8(after.clone().unwrap()).unwrap();
            let foreign: Vec<&str> = before.split('\n').filter(ours).filter(|line| !line.is_empty()).collect();
            let kept: Vec<&str> = text.split('\n').filter(ours).filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(foreign, kept);
        }
    }
}
