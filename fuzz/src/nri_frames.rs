//! Any bytes from a runtime are decoded or refused: no panic, no unbounded memory.

/// See the module.
pub fn run(bytes: &[u8]) {
    // Raw: the multiplexer's frames, which the fuzzer rarely gets right…
    let _ = usernsd_nri::decode_frames(bytes);

    // …and as the payload of each call, framed properly.
    const CALLS: [&str; 8] = [
        "StateChange",
        "StartContainer",
        "CreateContainer",
        "StopContainer",
        "RemovePodSandbox",
        "Synchronize",
        "Configure",
        "Unknown",
    ];
    let Some((choice, payload)) = bytes.split_first() else { return };
    let method = CALLS[usize::from(*choice) % CALLS.len()];
    let mut body = Vec::new();
    for (tag, field) in
        [(0x0a, "nri.pkg.api.v1alpha1.Plugin".as_bytes()), (0x12, method.as_bytes()), (0x1a, payload)]
    {
        body.push(tag);
        let mut length = field.len();
        while length >= 0x80 {
            body.push(length as u8 | 0x80);
            length >>= 7;
        }
        body.push(length as u8);
        body.extend_from_slice(field);
    }
    let length = body.len() as u32;
    let message = [&length.to_be_bytes()[..], &[0, 0, 0, 1, 1, 0], &body].concat();
    let frame = [&[0, 0, 0, 1][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let _ = usernsd_nri::decode_frames(&frame);
}
