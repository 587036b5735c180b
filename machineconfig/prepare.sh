#!/bin/sh
# Written by "usernsd machineconfig --format script".
set -eu

# put MODE PATH: the content comes in base64.
put() {
	dir=${2%/*}
	mkdir -p "$dir"
	# Every file in crio.conf.d is read: half a file there stops CRI-O.
	case $dir in
	/etc/*) stage=/etc ;;
	*) stage=$dir ;;
	esac
	new=$(mktemp "$stage/.usernsd.XXXXXX")
	trap 'rm -f "$new"' EXIT
	base64 -d >"$new"
	chmod "$1" "$new"
	sync "$new"
	mv -f "$new" "$2"
	trap - EXIT
	if command -v restorecon >/dev/null; then restorecon "$2"; fi
}

# no_others PATH OWNERS: it is about to be replaced, with the lines of these owners.
no_others() {
	if [ -s "$1" ] && grep -qvE "^(($2):|[[:space:]]*(#|\$))" "$1"; then
		echo "$1 has lines of others, which would go; use usernsd bootstrap on this node" >&2
		exit 1
	fi
}

put 0644 '/etc/crio/crio.conf.d/99-usernsd.conf' <<'END'
IyBXcml0dGVuIGJ5IHVzZXJuc2Q7IGNoYW5nZXMgbWFkZSBoZXJlIGFyZSBsb3N0LgojIENSSS1P
IHJlYWRzIGl0IHdoZW4gaXQgc3RhcnRzLCBub3Qgb24gcmVsb2FkLgojIENSSS1PIDEuMzQgYW5k
IG9sZGVyIGRvIG5vdCBzdGFydCB3aXRoIGl0OiB0YWtlIGl0IGF3YXkgYmVmb3JlIGEgZG93bmdy
YWRlLgoKW2NyaW8ucnVudGltZV0KZW5hYmxlX3BvZF9ldmVudHMgPSB0cnVlCgojIFBvZHMgbWF5
IHVzZSB0aGVzZSBhbm5vdGF0aW9ucy4gT2Ygc2V2ZXJhbCB3b3JrbG9hZHMgdGhhdCBtYXRjaCBD
UkktTyBwaWNrcyBvbmUgYXQgcmFuZG9tOiBlYWNoIGFsbG93cyBhbGwuCltjcmlvLnJ1bnRpbWUu
d29ya2xvYWRzLnVzZXJuc2RdCmFjdGl2YXRpb25fYW5ub3RhdGlvbiA9ICJpby5rdWJlcm5ldGVz
LmNyaS1vLmNncm91cDItbW91bnQtaGllcmFyY2h5LXJ3IgphbGxvd2VkX2Fubm90YXRpb25zID0g
WwogICJpby5rdWJlcm5ldGVzLmNyaS1vLmNncm91cDItbW91bnQtaGllcmFyY2h5LXJ3IiwKICAi
Y2dyb3VwMi1tb3VudC1oaWVyYXJjaHktcncuY3Jpby5pbyIsCl0KCltjcmlvLnJ1bnRpbWUud29y
a2xvYWRzLnVzZXJuc2QtdjJdCmFjdGl2YXRpb25fYW5ub3RhdGlvbiA9ICJjZ3JvdXAyLW1vdW50
LWhpZXJhcmNoeS1ydy5jcmlvLmlvIgphbGxvd2VkX2Fubm90YXRpb25zID0gWwogICJpby5rdWJl
cm5ldGVzLmNyaS1vLmNncm91cDItbW91bnQtaGllcmFyY2h5LXJ3IiwKICAiY2dyb3VwMi1tb3Vu
dC1oaWVyYXJjaHktcncuY3Jpby5pbyIsCl0K
END
echo 'Drain the node and restart its container runtime for this to take effect.' >&2
