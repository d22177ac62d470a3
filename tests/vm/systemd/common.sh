# Common functions of the scripts here: the network of a node, an attacker and a member, and checks. The
# scripts source this file. Each of them prints `ok NAME` or `not ok NAME: why` for each check, and exits
# with $failed.

shopt -s extglob
failed=0
check() { # NAME WHY COMMAND...
    local name=$1 why=$2
    shift 2
    if "$@"; then echo "ok $name"; else
        echo "not ok $name: $why"
        failed=1
    fi
}
refused() { ! "$@"; }
holds() { [[ $1 == $2 ]]; }
show() { systemctl show --property "$1" --value trainguard.service; }
pid() { show MainPID; }
mode() { stat -c '%a %U:%G' "$1" 2>/dev/null; }
# Whether a daemon runs that is not the process $old.
another() { [ "$(pid)" -ne 0 ] && [ "$(pid)" -ne "$old" ] && active; }
attached() { ip -n attacker link show dev tg1 >/dev/null && ip link show dev tg0 | grep -q xdp; }
detached() { ! attached; }
active() { systemctl is-active --quiet trainguard; }
# Waits until a command succeeds, for at most the given number of seconds.
within() {
    local seconds=$1
    shift
    for ((i = 0; i < seconds * 5; i++)); do
        "$@" && return
        sleep 0.2
    done
    return 1
}
says() { [[ $(show StatusText) == $1 ]]; }

# ---- the network: the node is here, attacker and member are at the other end
ip netns add attacker
ip link add tg0 type veth peer name tg1 netns attacker
ip link set tg0 up
ip addr add 10.77.0.10/24 dev tg0
ip -n attacker link set lo up
ip -n attacker link set tg1 up
ip -n attacker addr add 10.77.0.20/24 dev tg1
ip -n attacker addr add 10.77.0.99/24 dev tg1

# Opens connections from an address, with a timeout for each. A refusal counts as an answer, because the
# packet got through. After each attempt, writes the number of attempts and of answers to the report.
cat >/run/knock.py <<'PY'
import socket, sys, time
source, times, report = sys.argv[1], int(sys.argv[2]), sys.argv[3]
target = sys.argv[4] if len(sys.argv) > 4 else "10.77.0.10"
tried = answered = 0
while times == 0 or tried < times:
    with socket.socket() as s:
        s.settimeout(0.3)
        s.bind((source, 0))
        try:
            s.connect((target, 9091))
            answered += 1
        except ConnectionRefusedError:
            answered += 1
        except OSError:
            pass
    tried += 1
    with open(report, "w") as f:
        f.write(f"{tried} {answered}\n")
    time.sleep(0.02)
PY
knock() { # ADDRESS: whether it is answered
    ip netns exec attacker python3 /run/knock.py "$1" 2 /run/once
    [[ $(cut -d' ' -f2 /run/once) -gt 0 ]]
}
unanswered() { ! knock "$1"; }
# The attacker (an unlisted source) opens connections until `end_attack`.
attack() {
    echo '0 0' >/run/attack
    spent=0
    ip netns exec attacker python3 /run/knock.py 10.77.0.99 0 /run/attack &
    attacker=$!
}
end_attack() {
    kill $attacker
    wait $attacker 2>/dev/null
}
# Checks that the attacker got no answer since the last call; waits for further attempts first.
quiet() { # NAME
    local tried answered before
    read -r before _ </run/attack
    within 20 tried_since "$before"
    read -r tried answered </run/attack
    check "$1: no attempt of the attacker is answered" "$answered of $tried attempts were answered" [ "$answered" -eq 0 ]
    check "$1: the attacker made attempts" "only $((tried - spent)) attempts" [ $((tried - spent)) -gt 3 ]
    spent=$tried
}
tried_since() { # BEFORE: whether the attacker has finished three more attempts since
    local tried
    read -r tried _ </run/attack
    [ "$tried" -gt $(($1 + 3)) ]
}
layouts() { cd /sys/fs/bpf/trainguard && echo v*; }
counted() { trainguard stats --once --format json >/run/counted; }
# Whether each reason's count is at least as high as in a file.
none_fell() { # BEFORE
    counted
    python3 - "$1" /run/counted <<'PY'
import json, sys
before, now = (json.load(open(path))["reasons"] for path in sys.argv[1:])
fell = {name: (entry, now.get(name)) for name, entry in before.items()
        if now.get(name, {"packets": 0})["packets"] < entry["packets"]}
sys.exit(f"fell: {fell}" if fell else 0)
PY
}
by_rpm() { rpm --nodeps "$@" >/run/rpm.log 2>&1; }
# Writes a manifest and a policy with one guarded port.
configure() {
cat >/etc/trainguard/cluster.yaml <<'YAML'
apiVersion: trainguard/v1
kind: Cluster
name: life
interfaces: [tg0]
nodes:
  - { name: here, addresses: [10.77.0.10], roles: [scheduler] }
  - { name: member, addresses: [10.77.0.20], roles: [worker] }
policies: [policy.yaml]
YAML
cat >/etc/trainguard/policy.yaml <<'YAML'
apiVersion: trainguard/v1
kind: Policy
name: life
services:
  - name: scheduler
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow: { roles: [worker] }
    mode: enforce
YAML
}
