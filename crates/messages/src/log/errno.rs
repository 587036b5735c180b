//! Which error of the kernel a line reports, in words, as a symbol or as a number.

use super::begins_word;

/// An error of the kernel on which a step's usual cause depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelError {
    Denied,
    NotPermitted,
    Invalid,
    NoSpace,
    ReadOnly,
    Busy,
    Missing,
    NotSupported,
    NotImplemented,
    Overflow,
    Unavailable,
    NoDevice,
    NoMemory,
    TooManyFiles,
    Io,
    Stale,
    Quota,
    ExecFormat,
    TooLong,
    /// The other end of a pipe or connection has gone.
    Closed,
    /// The program that serves a FUSE mount has gone.
    NotConnected,
    /// The other side of a connection does not answer, or has no address.
    Unreachable,
    /// The wait of a program ended without the expected event.
    Late,
    /// An address is taken.
    InUse,
    Exists,
    NoProcess,
}

/// The last of the kernel's errors in a line, which is that of the innermost operation, and the text before it.
pub(super) fn last(line: &str) -> Option<(&str, KernelError)> {
    let in_words = WORDS.iter().filter_map(|(text, error)| {
        let at = line.rmatch_indices(text).map(|(at, _)| at).find(|at| is_an_error(line, *at))?;
        Some((at, *error))
    });
    let symbols = SYMBOLS.iter().filter_map(|(symbol, error)| Some((last_word(line, symbol)?, *error)));
    let numbers = NUMBERED.iter().filter_map(|mark| {
        let (at, _) = line.rmatch_indices(mark).find(|(at, _)| is_start_of_word(line, *at))?;
        let digits = line.get(at + mark.len()..)?;
        let end = digits.find(|next: char| !next.is_ascii_digit()).unwrap_or(digits.len());
        Some((at, of_number(digits.get(..end)?)?))
    });
    let named = in_words.chain(symbols).chain(numbers).max_by_key(|(at, _)| *at);
    let (at, error) = named.or_else(|| of_kernel_log(line))?;
    Some((line.get(..at)?, error))
}

const WORDS: [(&str, KernelError); 46] = [
    ("permission denied", KernelError::Denied),
    ("is not writable", KernelError::Denied),
    ("accessdeniedexception", KernelError::Denied),
    ("operation not permitted", KernelError::NotPermitted),
    ("invalid argument", KernelError::Invalid),
    ("no space left on device", KernelError::NoSpace),
    ("read-only file system", KernelError::ReadOnly),
    ("device or resource busy", KernelError::Busy),
    ("text file busy", KernelError::Busy),
    ("no such file", KernelError::Missing),
    ("executable file not found", KernelError::Missing),
    ("operation not supported", KernelError::NotSupported),
    ("protocol not supported", KernelError::NotSupported),
    ("function not implemented", KernelError::NotImplemented),
    ("value too large for defined data type", KernelError::Overflow),
    ("resource temporarily unavailable", KernelError::Unavailable),
    ("no such device", KernelError::NoDevice),
    ("unknown filesystem type", KernelError::NoDevice),
    ("cannot allocate memory", KernelError::NoMemory),
    ("too many open files", KernelError::TooManyFiles),
    ("input/output error", KernelError::Io),
    ("stale file handle", KernelError::Stale),
    ("disk quota exceeded", KernelError::Quota),
    ("exec format error", KernelError::ExecFormat),
    ("argument list too long", KernelError::TooLong),
    ("broken pipe", KernelError::Closed),
    ("connection reset by peer", KernelError::Closed),
    ("unexpected eof", KernelError::Closed),
    ("transport endpoint is not connected", KernelError::NotConnected),
    ("software caused connection abort", KernelError::NotConnected),
    ("connection refused", KernelError::Unreachable),
    ("connection timed out", KernelError::Unreachable),
    ("no route to host", KernelError::Unreachable),
    ("network is unreachable", KernelError::Unreachable),
    ("host is unreachable", KernelError::Unreachable),
    ("i/o timeout", KernelError::Unreachable),
    ("handshake timeout", KernelError::Unreachable),
    ("deadline exceeded", KernelError::Late),
    ("no such host", KernelError::Unreachable),
    ("could not resolve host", KernelError::Unreachable),
    ("could not translate host name", KernelError::Unreachable),
    ("name or service not known", KernelError::Unreachable),
    ("temporary failure in name resolution", KernelError::Unreachable),
    ("address already in use", KernelError::InUse),
    ("file exists", KernelError::Exists),
    ("no such process", KernelError::NoProcess),
];

/// Sentences of programs that have the meaning of an error.
const STATED: [(&str, KernelError); 40] = [
    ("not writable", KernelError::Denied),
    ("not a writable", KernelError::Denied),
    ("location writable", KernelError::Denied),
    ("must be writable", KernelError::Denied),
    ("not readable", KernelError::Denied),
    ("must be readable", KernelError::Denied),
    ("not executable", KernelError::Denied),
    ("cannot write to", KernelError::Denied),
    ("can't write to", KernelError::Denied),
    ("could not write to", KernelError::Denied),
    ("unable to write to", KernelError::Denied),
    ("cannot create directory", KernelError::Denied),
    ("unable to create directory", KernelError::Denied),
    ("is denied", KernelError::Denied),
    ("access denied", KernelError::Denied),
    ("unauthorizedaccess", KernelError::Denied),
    ("write permission", KernelError::Denied),
    ("no permission", KernelError::Denied),
    ("insufficient permission", KernelError::Denied),
    ("do not have permission", KernelError::Denied),
    ("don't have permission", KernelError::Denied),
    ("read only file system", KernelError::ReadOnly),
    ("does not exist", KernelError::Missing),
    ("doesn't exist", KernelError::Missing),
    ("not found", KernelError::Missing),
    ("cannot find", KernelError::Missing),
    ("can't find", KernelError::Missing),
    ("could not find", KernelError::Missing),
    ("couldn't find", KernelError::Missing),
    ("failed to find", KernelError::Missing),
    ("not supported", KernelError::NotSupported),
    ("unsupported", KernelError::NotSupported),
    ("notsupported", KernelError::NotSupported),
    ("n't supported", KernelError::NotSupported),
    ("not support ", KernelError::NotSupported),
    ("n't support ", KernelError::NotSupported),
    ("not functional", KernelError::NotSupported),
    ("kernel >=", KernelError::NotSupported),
    ("already exists", KernelError::Exists),
    ("already in use", KernelError::Exists),
];

/// The symbols of errno(3), as Node.js, Ruby and programs in their logs print them.
const SYMBOLS: [(&str, KernelError); 27] = [
    ("eacces", KernelError::Denied),
    ("eperm", KernelError::NotPermitted),
    ("einval", KernelError::Invalid),
    ("enospc", KernelError::NoSpace),
    ("erofs", KernelError::ReadOnly),
    ("ebusy", KernelError::Busy),
    ("enoent", KernelError::Missing),
    ("enotsup", KernelError::NotSupported),
    ("eopnotsupp", KernelError::NotSupported),
    ("enosys", KernelError::NotImplemented),
    ("eoverflow", KernelError::Overflow),
    ("eagain", KernelError::Unavailable),
    ("enodev", KernelError::NoDevice),
    ("enxio", KernelError::NoDevice),
    ("enomem", KernelError::NoMemory),
    ("emfile", KernelError::TooManyFiles),
    ("eio", KernelError::Io),
    ("estale", KernelError::Stale),
    ("enoexec", KernelError::ExecFormat),
    ("epipe", KernelError::Closed),
    ("econnreset", KernelError::Closed),
    ("econnrefused", KernelError::Unreachable),
    ("etimedout", KernelError::Unreachable),
    ("ehostunreach", KernelError::Unreachable),
    ("eaddrinuse", KernelError::InUse),
    ("eexist", KernelError::Exists),
    ("esrch", KernelError::NoProcess),
];

/// Texts before an error's number, as Python, Rust and C programs print it.
const NUMBERED: [&str; 4] = ["errno ", "errno=", "errno: ", "os error "];

/// The error that a sentence has the meaning of, if no error of the kernel is in the line: the last one.
pub(super) fn stated(line: &str) -> Option<KernelError> {
    let places = STATED.iter().filter_map(|(text, error)| Some((line.rfind(text)?, *error)));
    places.max_by_key(|(at, _)| *at).map(|(_, error)| error)
}

/// Whether the words at that place are the kernel's: crun and podman add their own kind of error behind it.
fn is_an_error(line: &str, at: usize) -> bool {
    let before = line.get(..at).unwrap_or_default();
    !before.ends_with("oci ") && !before.ends_with("oci runtime ")
}

/// Where a text is the last time as a word of its own.
fn last_word(line: &str, word: &str) -> Option<usize> {
    line.rmatch_indices(word).map(|(at, _)| at).find(|at| {
        let after = line.get(at + word.len()..).unwrap_or_default();
        is_start_of_word(line, *at) && !after.starts_with(|next: char| next.is_alphanumeric() || next == '_')
    })
}

fn is_start_of_word(line: &str, at: usize) -> bool {
    begins_word(line.get(..at).unwrap_or_default())
}

/// The error at the end of a line of the kernel's log, as its number: `: -13`.
fn of_kernel_log(line: &str) -> Option<(usize, KernelError)> {
    let at = line.rfind(": -")?;
    Some((at, of_number(line.get(at + 3..)?.trim_end())?))
}

/// The error with a number, as on x86 and Arm.
fn of_number(digits: &str) -> Option<KernelError> {
    Some(match digits.parse().ok()? {
        1 => KernelError::NotPermitted,
        2 => KernelError::Missing,
        3 => KernelError::NoProcess,
        5 => KernelError::Io,
        6 | 19 => KernelError::NoDevice,
        7 => KernelError::TooLong,
        8 => KernelError::ExecFormat,
        11 => KernelError::Unavailable,
        12 => KernelError::NoMemory,
        13 => KernelError::Denied,
        16 => KernelError::Busy,
        17 => KernelError::Exists,
        22 => KernelError::Invalid,
        24 => KernelError::TooManyFiles,
        28 => KernelError::NoSpace,
        30 => KernelError::ReadOnly,
        32 | 104 => KernelError::Closed,
        103 | 107 => KernelError::NotConnected,
        38 => KernelError::NotImplemented,
        75 => KernelError::Overflow,
        95 => KernelError::NotSupported,
        98 => KernelError::InUse,
        110 | 111 | 113 => KernelError::Unreachable,
        116 => KernelError::Stale,
        122 => KernelError::Quota,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_known_in_words_as_a_symbol_and_as_a_number() {
        let error = |line: &str| last(line).map(|(_, error)| error);
        for line in [
            "open /data: permission denied",
            "errno::eacces: /data",
            "[errno 13] /data",
            "io(os { code: 1, kind: x, message: 'permission denied' })",
            "open /data: failed (os error 13)",
            "overlayfs: failed to resolve '/data': -13",
            "java.nio.file.accessdeniedexception: /data",
        ] {
            assert_eq!(error(line), Some(KernelError::Denied), "{line}");
        }
        // The innermost operation is the last.
        assert_eq!(
            error("x: permission denied: y: operation not permitted"),
            Some(KernelError::NotPermitted)
        );
        // "OCI permission denied", which crun and podman add, is no error of the kernel.
        for line in [
            "pivot_root: operation not permitted: oci permission denied",
            "cannot setns: operation not permitted: oci runtime permission denied error",
        ] {
            assert_eq!(error(line), Some(KernelError::NotPermitted), "{line}");
        }
        assert_eq!(error("the oci permission denied"), None);
        // Parts of other words, and numbers of other things.
        for line in ["studio: eiops", "exited: -13 of 4", "errno 9999", "code 13", "deperm"] {
            assert_eq!(error(line), None, "{line}");
        }
        assert_eq!(last("mount x: invalid argument: unknown"), Some(("mount x: ", KernelError::Invalid)));
    }
}
