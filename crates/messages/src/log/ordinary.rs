//! The meanings of sentences without an error of the kernel, and of failures that concern no user namespace.

use super::step::Step;

impl Step {
    /// The meaning of a step for every error of the kernel; `None` for operations, whose meaning depends on the error.
    pub(super) const fn of_sentence(self) -> Option<&'static str> {
        Some(match self {
            Step::OwnerCheck => {
                "the program itself refuses the file by its owner or mode; the kernel has refused nothing. In a container an owner is seen through the mappings of the pod, the engine and the volume: an ID that is not mapped shows as 65534 (nobody), and root of another mapping as a large number. Otherwise the image or volume gives the file to another user than the process has, or fsGroup has opened it to a group"
            }
            Step::UserName => {
                "the user or group has no name where the program looks it up: /etc/passwd and /etc/group of the image for a program in a container, those of the machine or its directory service for one outside. No mapping refuses it: runAsUser, OpenShift and keep-id choose numbers without a name, and ssh, sudo, git, whoami and others need the name"
            }
            Step::NeedsRoot => {
                "the program requires root, another user or group, or one of root's rights, and the process is not root in the container (runAsUser, USER of the image), or a capability was dropped, or allowPrivilegeEscalation: false or nosuid disables a setuid program. With hostUsers: false root in a container is an ordinary user of the node; what belongs to the whole machine stays forbidden to it"
            }
            Step::RefusesRoot => {
                "the program refuses or warns to run as user 0 by a check of its own, which cannot see that root of a pod with hostUsers: false is an ordinary user of the node. A warning can be ignored; otherwise set runAsUser to another user, or the program's option that allows root"
            }
            Step::Login => {
                "a name, password, key or token was not accepted: this is about accounts of that service, not about user IDs of the kernel, and no mapping has to do with it"
            }
            Step::Tls => {
                "a certificate is not trusted here, has expired or is for another name, or the clock is wrong; user namespaces have nothing to do with it"
            }
            Step::ApiAccess => {
                "the user or service account that the line names has no role (RBAC) for it; user IDs of the kernel have nothing to do with it"
            }
            Step::OutOfMemory => {
                "memory has run out: the limit of the container or pod (limits.memory), the memory of the node, or the heap of the program; user namespaces have nothing to do with it"
            }
            Step::ContainerState => {
                "the command needs a container in another state: it has ended or was never started, or another one has its name. If it has ended by itself, its log or the engine's message at its start has the cause"
            }
            Step::ImagePull => {
                "the image cannot be fetched: its name, the account or rate limit at the registry, or the network. Unpacking, where owners of files matter, has not begun"
            }
            Step::Placement => {
                "no node has room for the pod, or a rule keeps it away: CPU, memory, disk, taints, affinity or a quota. It has no container and no user namespace yet"
            }
            Step::Probe => {
                "the container runs, and its program does not answer the probe as expected; the program's log has the cause"
            }
            Step::Wait => {
                "something did not happen in time: the cause is in the log or the events of what was waited for, not in this line"
            }
            Step::Library => {
                "a library or module is not where the program's runtime looks for it, or this user may not read it: it is not in the image, or a variable leads elsewhere (PYTHONHOME, PYTHONPATH, LD_LIBRARY_PATH, NODE_PATH, CLASSPATH), or its directory is closed to an arbitrary runAsUser"
            }
            Step::Configuration => {
                "the program cannot read what it was given: an option, a file or a value that it does not have, or of another form. Often two programs are of versions that do not fit: a tool and the bubblewrap, podman, crun or kubelet that it starts. The kernel has refused nothing"
            }
            Step::Selinux => {
                "the SELinux policy of the node forbids an access, or a program does not run in the domain that its policy package provides (container-selinux, rke2-selinux, k3s-selinux): the package is missing or old, or files have not the labels that it gives them. User IDs have nothing to do with it"
            }
            Step::Unclear => {
                "no word of the line names a user, an owner, a right, a mount or a namespace: it alone shows no cause"
            }
            _ => return None,
        })
    }

    /// Where the cause of such a failure shows.
    pub(super) const fn look_at_sentence(self) -> Option<&'static str> {
        Some(match self {
            Step::OwnerCheck => {
                "ls -ldn FILE, id and cat /proc/self/uid_map in the container; usernsd explain POD shows which volumes are mapped"
            }
            Step::UserName => {
                "id and getent passwd NUMBER in the container; add the line in the image or its entry point, or choose a user of the image"
            }
            Step::NeedsRoot => {
                "id, and grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status in the container (capsh --decode=… names the capabilities)"
            }
            Step::RefusesRoot => "id in the container, and the program's documentation for the option",
            Step::Login => {
                "the log of the service that has refused it; ls -ln of the file with the key, password or token, which this user may not be able to read"
            }
            Step::Tls => "date, and openssl s_client -connect HOST:PORT where the program runs",
            Step::ApiAccess => {
                "kubectl auth can-i --list --as=system:serviceaccount:NAMESPACE:NAME; roles and bindings of that account"
            }
            Step::OutOfMemory => {
                "kubectl describe pod (OOMKilled, limits), /sys/fs/cgroup/memory.events in the container, journalctl -k on the node"
            }
            Step::ContainerState => "crictl ps -a, podman ps -a or docker ps -a, then the container's log",
            Step::ImagePull => {
                "kubectl describe pod; crictl pull IMAGE on the node, or podman pull IMAGE; imagePullSecrets of the pod"
            }
            Step::Placement => "kubectl describe pod, and kubectl describe node",
            Step::Probe => "kubectl logs, and the probe's request or command by kubectl exec",
            Step::Wait => "kubectl get events, and describe and logs of what was waited for",
            Step::Library => {
                "env in the container, and ls -ln of the directory that the runtime searches, as the user of the process (id)"
            }
            Step::Configuration => {
                "--version of both programs, and the file or command that this line or the one before it names"
            }
            Step::Selinux => {
                "ausearch -m avc -ts recent | audit2why, ls -Z FILE and ps -eZ on the node; restorecon -R PATH gives files their labels"
            }
            Step::Bus => {
                "id, echo $DBUS_SESSION_BUS_ADDRESS $XDG_RUNTIME_DIR, and ls -ln of the socket, where the program runs"
            }
            Step::Unclear => {
                "the program's log from its beginning (kubectl logs --previous, journalctl -u UNIT), and the program's own documentation"
            }
            Step::Ended => {
                "the lines before this one, and that program's own log: kubectl logs --previous, journalctl -u UNIT"
            }
            Step::Unreachable => {
                "kubectl get pods,endpoints of the other side, and its log; getent hosts NAME in the container"
            }
            Step::Storage => "df -h and df -i of the path, and journalctl -k on the node",
            Step::Absent => "ls -ln PATH where the program runs, in the container or on the node",
            Step::Unsupported => "uname -r, the program's --version, and what its documentation requires",
            Step::Exists | Step::Busy => "findmnt -R PATH, fuser -vm PATH, or ss -ltnp for an address",
            Step::Rejected => "cat /proc/self/uid_map where the program runs; strace -f shows the call",
            Step::Exhausted | Step::Fork => {
                "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids.current /sys/fs/cgroup/memory.events, and ulimit -a, in the container"
            }
            Step::Cni => {
                "ls -l /opt/cni/bin /etc/cni/net.d on the node, and the log of the CNI plugin's own pod"
            }
            Step::Admission => {
                "kubectl describe of the pod's owner, and the labels pod-security.kubernetes.io of the namespace"
            }
            Step::KubeletStart | Step::RuntimeStart => {
                "usernsd doctor on the node, and journalctl -u of the unit"
            }
            Step::Container => "kubectl describe pod; journalctl -u of the runtime's unit on the node",
            _ => return None,
        })
    }
}
