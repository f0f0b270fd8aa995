#!/usr/bin/env bash
# A host of soma in bash and jq.
#
#   ./host.sh                 starts a worker:            python3 -m soma_transport_stdio
#   ./host.sh /path/to/socket uses a worker of a daemon:  soma serve socket --path /path/to/socket
#
# PYTHON names the interpreter that has soma-core and soma-filters-sklearn installed.
set -euo pipefail

# Copies between stdin, stdout and a Unix socket, which bash cannot open; every Debian has perl.
readonly RELAY='
    use IO::Socket::UNIX;
    my $wire = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!\n";
    if (fork) { syswrite $wire, $_ while sysread STDIN, $_, 65536; shutdown $wire, 1; wait }
    else { syswrite STDOUT, $_ while sysread $wire, $_, 65536 }'

gone() {
    echo "the worker is gone" >&2
    exit 1
}

start() {
    if (($# == 0)); then
        coproc WORKER { exec "${PYTHON:-python3}" -P -m soma_transport_stdio; }
    else
        coproc WORKER { exec perl -e "$RELAY" "$1"; }
    fi
    [[ -v WORKER ]] || gone
    exec {from_worker}<&"${WORKER[0]}" {to_worker}>&"${WORKER[1]}"
}

# Send one command, which is one line, and put its reply, which is one line too, into $reply.
# It fails where the reply is an error, so that callers choose what to do.
ask() {
    jq --compact-output --null-input "$@" >&"$to_worker" 2>/dev/null || gone
    IFS= read -r reply <&"$from_worker" || gone
    jq --exit-status .ok >/dev/null <<<"$reply"
}

must() {
    ask "$@" || { jq --raw-output '"\(.code): \(.error)"' <<<"$reply" >&2; exit 1; }
}

start "$@"
rows='{"type": "Tensor", "data": {"values": [1, 2, 3, 4], "shape": [2, 2]}}'

must '{cmd: "LOAD", filters: [{id: "scaler", filter: "sklearn.StandardScaler", config: {}}]}'
must --argjson rows "$rows" '{cmd: "FIT", node_id: "scaler", data: $rows, return_state: false}'
must --argjson rows "$rows" '{cmd: "FORWARD", node_id: "scaler", data: $rows}'
jq --raw-output '"result \(.result.data.values) of shape \(.result.data.shape)"' <<<"$reply"

if ! ask '{cmd: "FORWARD", node_id: "nobody", data: 1}'; then
    jq --raw-output '"refused with \(.code): \(.error)"' <<<"$reply"
fi
must '{cmd: "SHUTDOWN"}'
