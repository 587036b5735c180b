# $1 is the number of versions that stay: 0 if the package is removed.
if [ "$1" -eq 0 ]; then
    systemctl disable --now usernsd.service >/dev/null 2>&1 || :
    rm -f /usr/bin/kubectl-userns /usr/bin/kubectl_complete-userns
    if [ -e /var/lib/usernsd/bootstrap.json ]; then
        install -m 755 /usr/bin/usernsd /var/lib/usernsd/usernsd-undo
        echo "usernsd: this node stays prepared; to take it back: /var/lib/usernsd/usernsd-undo bootstrap --undo" >&2
    fi
fi
