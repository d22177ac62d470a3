#!/bin/bash
# Tests the package and the unit, in a machine with systemd that may be broken. Run as root, with
# /vm/trainguard.deb and .rpm, and /vm/trainguard-next.deb and .rpm with a higher revision and the next
# layout.
#
# An attacker, in a namespace at the other end of a veth pair, opens connections all the time. From the
# first start until the package is removed, none may be answered, whatever happens to the daemon (cases
# 93, 94, 96, 109, 113, 145, 148).

. "${0%/*}/common.sh"

# Counts how many of 60 datagrams arrive that the member sends at once to the limited port.
cat >/run/burst.py <<'PY'
import socket, subprocess, sys
if len(sys.argv) > 1:
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.bind(("10.77.0.20", 0))
        for _ in range(60):
            s.sendto(b"x", ("10.77.0.10", 9092))
    sys.exit()
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.bind(("10.77.0.10", 9092))
    s.settimeout(1)
    subprocess.run(["ip", "netns", "exec", "attacker", "python3", sys.argv[0], "send"], check=True)
    arrived = 0
    try:
        while s.recv(16):
            arrived += 1
    except OSError:
        print(arrived)
PY
burst() { arrived=$(python3 /run/burst.py); }

# ---- installed, but not configured
dpkg --install /vm/trainguard.deb >/run/dpkg.log 2>&1
done=$?
check "the package installs" "$(tail -3 /run/dpkg.log)" [ $done -eq 0 ]
check "installing enables nothing" "$(systemctl is-enabled trainguard)" \
    holds "$(systemctl is-enabled trainguard 2>/dev/null)" disabled
check "installing starts nothing" "$(systemctl is-active trainguard)" \
    holds "$(systemctl is-active trainguard)" inactive
check "installing attaches nothing" "an XDP program is on tg0" detached
check "before the start the attacker gets in" "no answer without a guard" knock 10.77.0.99
check "the pin directory exists, and is private" "$(mode /sys/fs/bpf/trainguard)" \
    holds "$(mode /sys/fs/bpf/trainguard)" "700 trainguard:trainguard"
check "/sys/fs/bpf is still accessible to root only" "$(mode /sys/fs/bpf)" \
    holds "$(mode /sys/fs/bpf)" "1700 root:root"
systemctl start trainguard
check "without a manifest a start neither fails nor enforces" "$(show Result) $(show ActiveState)" \
    holds "$(show Result) $(show ActiveState) $(show ConditionResult)" "success inactive no"
check "manual pages are installed" "no page" test -s /usr/share/man/man1/trainguard-apply.1.gz

# ---- configured and started
configure
# The environment of the service manager must have no effect (case 148).
systemctl set-environment TRAINGUARD_RUN_DIR=/run/elsewhere LD_PRELOAD=/no/such.so RUST_LOG=trace
systemctl start trainguard
check "start: ready means enforced" "$(show StatusText)" unanswered 10.77.0.99
check "start: active" "$(systemctl status trainguard | tail -5)" active
check "start: members get in" "no answer" knock 10.77.0.20
check "start: the status reports enforcement" "$(show StatusText)" within 10 says 'enforcing life@* on 1 interface, * drops/s'
check "the environment does not matter" "$(ls /run/elsewhere 2>&1)" test ! -e /run/elsewhere -a -S /run/trainguard/stats.sock
check "no environment reaches the daemon" "RUST_LOG has an effect" test -z "$(journalctl -u trainguard -o cat | grep -i 'trace')"
systemctl unset-environment TRAINGUARD_RUN_DIR LD_PRELOAD RUST_LOG
attack

# ---- user and rights of the daemon
status=/proc/$(pid)/status
check "the daemon is not root" "$(grep Uid "$status")" holds "$(stat -c %U "/proc/$(pid)")" trainguard
for set in CapPrm CapEff CapBnd CapAmb; do
    # CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39
    check "$set: three capabilities" "$(grep $set "$status")" \
        holds "$(awk -v set="$set:" '$1 == set { print $2 }' "$status")" 000000c000001000
done
check "the daemon cannot gain capabilities" "$(grep NoNewPrivs "$status")" grep -q $'NoNewPrivs:\t1' "$status"
check "the system calls of the daemon are filtered" "$(grep Seccomp: "$status")" grep -q $'Seccomp:\t2' "$status"
score=$(systemd-analyze security trainguard --no-pager | sed -n 's/.*level for trainguard.service: \([0-9.]*\).*/\1/p')
echo "systemd-analyze security: $score"
check "systemd-analyze security: 2.0 or better" "$score" awk "BEGIN { exit !(\"$score\" != \"\" && $score <= 2.0) }"
for file in /sys/fs/bpf/trainguard/v*/*; do
    wrong=$(stat -c '%a %U' "$file")
    [ "$wrong" = "600 trainguard" ] || break
done
check "pins are private" "$file: $wrong" holds "$wrong" "600 trainguard"
check "the state directory is private" "$(mode /var/lib/trainguard)" \
    holds "$(mode /var/lib/trainguard)" "700 trainguard:trainguard"
check "statistics are for the group trainguard" "$(mode /run/trainguard/stats.sock)" \
    holds "$(mode /run/trainguard/stats.sock)" "660 trainguard:trainguard"
check "commands are for the group trainguard-admin" "$(mode /run/trainguard/control.sock)" \
    holds "$(mode /run/trainguard/control.sock)" "660 trainguard:trainguard-admin"
as() { setpriv --reuid 4711 --regid 4711 --groups "$1" "${@:2}" >/run/as.log 2>&1; }
reader=$(getent group trainguard | cut -d: -f3)
admin=$(getent group trainguard-admin | cut -d: -f3)
check "a user without the groups cannot read" "the command succeeded" refused as 1000 trainguard status
check "a user without the groups cannot command" "the command succeeded" refused as 1000 trainguard apply --reload
check "a user without the groups cannot list the pins" "the command succeeded" refused as 1000 ls /sys/fs/bpf/trainguard
check "a member of the group trainguard can read" "$(cat /run/as.log)" as "$reader" trainguard status
check "a member of the group trainguard cannot command" "the command succeeded" refused as "$reader" trainguard apply --reload
as "$admin" trainguard apply --reload
done=$?
check "a member of the group trainguard-admin can command" "$(cat /run/as.log)" [ $done -eq 0 ]
check "the audit log records user and program of a command" "$(tail -1 /var/lib/trainguard/audit.jsonl)" \
    grep -q '"uid":4711.*"command":"trainguard"\|"command":"trainguard".*"uid":4711' /var/lib/trainguard/audit.jsonl
check "the journal records the user of a command" "no such record" \
    within 5 bash -c "journalctl -u trainguard -o cat | grep -q 'control connection uid=4711'"
quiet "rights"

# ---- content of the status
trainguard status >/run/status.log 2>&1
check "status: open ports are listed" "$(grep 'open port' /run/status.log)" \
    refused grep -q 'lists listening sockets\|No such file' /run/status.log

# ---- the wall clock steps: limits, timeouts and the watchdog use monotonic clocks
cat >>/etc/trainguard/policy.yaml <<'YAML'
  - name: limited
    roles: [scheduler]
    ports: [udp/9092]
    match: all
    allow: { roles: [worker] }
    mode: enforce
    limits:
      perSource:
        packets: { rate: 1/s, burst: 40 }
YAML
check "clock: a policy with a limit" "$(journalctl -u trainguard -o cat | tail -3)" systemctl reload trainguard
before=$(pid)
overridden() { trainguard status --format json | tr -d ' \n' | grep -q '"mode_override":{'; }
not_overridden() { ! overridden; }
trainguard mode enforce --for 25s >/run/mode.log 2>&1
check "clock: a mode override with a time limit" "$(cat /run/mode.log)" overridden
burst
check "clock: the limit lets a burst through" "$arrived of 60 arrived" [ "$arrived" -ge 40 -a "$arrived" -le 55 ]
date -s '+1 day' >/dev/null
burst
check "clock, a day on: the limit is not refilled" "$arrived of 60 arrived" [ "$arrived" -le 25 ]
check "clock, a day on: the mode override is still active" "the override ended" overridden
quiet "clock, a day on"
date -s '-2 days' >/dev/null
quiet "clock, a day back"
sleep 6
burst
check "clock, a day back: the limit is refilled at its rate" "$arrived of 60 arrived" \
    [ "$arrived" -ge 4 -a "$arrived" -le 39 ]
check "clock, a day back: members get in" "no answer" knock 10.77.0.20
check "clock: the mode override ends at its time limit" "the override is still active" within 40 not_overridden
sleep 31
check "clock: the watchdog does not restart the daemon" "pid $(pid), before $before" [ "$(pid)" = "$before" ]
check "clock: the status reports enforcement" "$(show StatusText)" within 10 says 'enforcing life@*'
date -s '+1 day' >/dev/null
quiet "clock, right again"

# ---- reload
generation() { trainguard status --format json | sed -n 's/.*"generation": *\([0-9]*\).*/\1/p' | head -1; }
before=$(generation)
sed -i 's/\[tcp\/9091\]/[tcp\/9091, udp\/9091]/' /etc/trainguard/policy.yaml
check "a good reload succeeds" "$(journalctl -u trainguard -o cat | tail -3)" systemctl reload trainguard
check "a good reload is in force" "generation $(generation), before $before" [ "$(generation)" -gt "$before" ]
before=$(generation)
cp /etc/trainguard/policy.yaml /run/good.yaml
sed -i 's/match: all/match: none/' /etc/trainguard/policy.yaml
check "a bad reload fails" "systemctl says that it succeeded" refused systemctl reload trainguard 2>/dev/null
check "a bad reload changes nothing" "generation $(generation), before $before" [ "$(generation)" -eq "$before" ]
check "a bad reload is in the status" "$(show StatusText)" within 15 says 'enforcing life@*differs from the files: *policy.yaml:8:*'
check "a bad reload does not end the daemon" "$(show ActiveState)" active
quiet "reload"

# ---- starts with bad files use the last known good policy
systemctl restart trainguard
check "a start with bad files uses the last known good policy" "$(show StatusText)" \
    within 15 says 'enforcing life@*differs from the files*'
# As at a boot: the pins are gone, and the interface is down until the guard is ready.
systemctl stop trainguard
mv /etc/trainguard/cluster.yaml /run/cluster.yaml
ip link set tg0 down
trainguard detach >/run/detach.log 2>&1
check "without files: the guard is off" "$(cat /run/detach.log)" detached
systemctl start trainguard
ip link set tg0 up
check "a start without files uses the last known good policy" "$(show ActiveState) $(show StatusText)" active
quiet "no files"
check "a start without files is in the status" "$(show StatusText)" \
    within 15 says 'enforcing life@*differs from the files*'
mv /run/cluster.yaml /etc/trainguard/cluster.yaml
cp /run/good.yaml /etc/trainguard/policy.yaml
check "files that are valid again are loaded" "$(show StatusText)" \
    within 20 says 'enforcing life@* drops/s'
quiet "bad files"

# ---- the daemon dies
for signal in KILL ABRT; do
    old=$(pid)
    kill -s $signal "$old"
    check "SIG$signal: the daemon is started again" "$(show ActiveState)" within 60 another
    quiet "SIG$signal"
done
old=$(pid)
kill -s STOP "$old"
check "SIGSTOP: the watchdog kills the daemon, and it is started again" "$(show ActiveState) $(pid), before $old" \
    within 90 another
check "SIGSTOP: the journal names the watchdog" "no such record" \
    bash -c "journalctl -u trainguard -o cat | grep -qi 'watchdog timeout'"
quiet "watchdog"

# ---- without the capabilities that it needs
mkdir -p /run/systemd/system/trainguard.service.d
printf '[Service]\nAmbientCapabilities=\n' >/run/systemd/system/trainguard.service.d/test.conf
systemctl daemon-reload
check "without its capabilities the daemon does not start" "the restart succeeded" refused systemctl restart trainguard 2>/dev/null
quiet "no capabilities"
rm /run/systemd/system/trainguard.service.d/test.conf
systemctl daemon-reload

# ---- a binary that does not work
mv /usr/bin/trainguard /run/trainguard.good
printf '#!/bin/sh\nexit 7\n' >/usr/bin/trainguard
chmod 755 /usr/bin/trainguard
systemctl restart trainguard 2>/dev/null
sleep 12
check "a broken binary: systemd restarts it again and again" "$(show NRestarts) times" [ "$(show NRestarts)" -ge 3 ]
quiet "broken binary"
mv /run/trainguard.good /usr/bin/trainguard
check "a repaired binary: the daemon starts by itself" "$(show ActiveState)" within 60 active
quiet "repaired binary"

# ---- stop, start, upgrade
systemctl stop trainguard
check "stop: the guard stays" "nothing is attached" attached
check "stop: members get in" "no answer" knock 10.77.0.20
quiet "stop"
systemctl start trainguard
check "start again" "$(show ActiveState)" active
quiet "start again"
old=$(pid)
# Goes back after a package of the older layout was installed: its daemon changes nothing and names a
# command, which switches the layout.
go_back() { # NAME
    systemctl start trainguard 2>/dev/null
    check "$1: the older daemon does not start by itself" "$(show ActiveState)" refused active
    check "$1: the refused start does not change the layout" "$(layouts)" holds "$(layouts)" "$next"
    quiet "$1: the older daemon is refused"
    systemctl stop trainguard
    local command
    command=$(journalctl --unit trainguard --output cat | sed -n 's/.*`\([^ ]*trainguard downgrade [^`]*\)`.*/\1/p' | tail -1)
    check "$1: the journal names a command" "$(journalctl --unit trainguard --lines 5)" test -n "$command"
    bash -c "$command" >/run/downgrade.log 2>&1
    done=$?
    check "$1: the command succeeds" "$command: $(tail -3 /run/downgrade.log)" [ $done -eq 0 ]
    check "$1: only the older layout is pinned" "$(layouts)" holds "$(layouts)" "$layout"
    quiet "$1: downgrade"
    systemctl reset-failed trainguard
    systemctl start trainguard
    check "$1: the older daemon runs" "$(show ActiveState)" active
    check "$1: no count falls in a downgrade" "$(none_fell /run/before 2>&1)" none_fell /run/before
    check "$1: members get in after the downgrade" "no answer" knock 10.77.0.20
}
layout=$(layouts)
counted
mv /run/counted /run/before
dpkg --install /vm/trainguard-next.deb >/run/dpkg.log 2>&1
done=$?
check "the package is upgraded" "$(tail -3 /run/dpkg.log)" [ $done -eq 0 ]
check "upgrade: another daemon runs" "$(show ActiveState) $(pid), before $old" within 30 another
next=$(layouts)
check "upgrade: exactly one layout is pinned" "$next, before $layout" holds "$next" "v[0-9]*([0-9])"
check "upgrade: the layout is not the older one" "$next" [ "$next" != "$layout" ]
check "upgrade: no count falls" "$(none_fell /run/before 2>&1)" none_fell /run/before
check "upgrade: members get in" "no answer" knock 10.77.0.20
check "upgrade: the unit stays disabled" "the unit is not disabled" holds "$(systemctl is-enabled trainguard 2>/dev/null)" disabled
quiet "upgrade"
systemctl stop trainguard
dpkg --install /vm/trainguard.deb >/run/dpkg.log 2>&1
check "upgrade: a stopped daemon stays stopped" "$(show ActiveState)" holds "$(show ActiveState)" inactive
quiet "downgrade of the package of a stopped daemon"
go_back deb
systemctl stop trainguard

# ---- an interface that appears late
systemctl start trainguard
sed -i 's/interfaces: \[tg0\]/interfaces: [tg0, late0]/' /etc/trainguard/cluster.yaml
systemctl restart --no-block trainguard
check "a missing interface: not ready yet" "$(show ActiveState)" holds "$(sleep 8; show ActiveState)" activating
quiet "a missing interface"
# The interface is configured as soon as it appears, and the attacker is at its other end already.
echo '0 0' >/run/late
ip link add late0 type veth peer name late1 netns attacker
ip -n attacker addr add 10.78.0.99/24 dev late1
ip -n attacker link set late1 up
ip netns exec attacker python3 /run/knock.py 10.78.0.99 0 /run/late 10.78.0.10 &
late=$!
ip addr add 10.78.0.10/24 dev late0
ip link set late0 up
check "the interface appears: ready" "$(show ActiveState) $(show StatusText)" within 20 active
check "the interface appears: guarded" "$(ip link show late0)" bash -c 'ip link show late0 | grep -q xdp'
quiet "the interface appears"
late_tried() { [ "$(cut -d' ' -f1 /run/late)" -gt 5 ]; }
check "the interface appears: the attacker makes attempts there" "$(cat /run/late)" within 20 late_tried
check "the interface appears: no attempt is answered there" "$(cat /run/late)" \
    holds "$(cut -d' ' -f2 /run/late)" 0
kill $late
wait $late 2>/dev/null
ip link del late0
systemctl restart trainguard
check "an interface that never appears does not fail the unit" "$(show ActiveState)" active
check "a missing interface is in the status" "$(show StatusText)" within 15 says '*waiting for late0'
quiet "an interface that never appears"
end_attack

# ---- removed
dpkg --remove trainguard >/run/dpkg.log 2>&1
done=$?
check "the package is removed" "$(tail -3 /run/dpkg.log)" [ $done -eq 0 ]
check "removal detaches" "an XDP program is on tg0" detached
check "removal leaves no pins" "$(ls /sys/fs/bpf/trainguard 2>/dev/null)" test ! -e /sys/fs/bpf/trainguard
check "removal opens the port" "no answer" knock 10.77.0.99
check "removal keeps state and configuration" "a file was removed" test -e /var/lib/trainguard/last-good.json -a -e /etc/trainguard/cluster.yaml
dpkg --purge trainguard >/run/dpkg.log 2>&1
check "purge removes the state" "$(tail -3 /run/dpkg.log)" test ! -e /var/lib/trainguard
check "purge keeps files that an administrator wrote" "the file was removed" test -e /etc/trainguard/cluster.yaml

# ---- the rpm, as far as it does not need libraries of other distributions
by_rpm --install /vm/trainguard.rpm
done=$?
check "rpm: the package installs" "$(tail -3 /run/rpm.log)" [ $done -eq 0 ]
systemctl start trainguard
check "rpm: active" "$(systemctl status trainguard | tail -5)" active
attack
quiet "rpm: start"
counted
mv /run/counted /run/before
old=$(pid)
by_rpm --upgrade /vm/trainguard-next.rpm
done=$?
check "rpm: the package is upgraded" "$(tail -3 /run/rpm.log)" [ $done -eq 0 ]
check "rpm: another daemon runs" "$(show ActiveState) $(pid), before $old" within 30 another
check "rpm: only the next layout is pinned" "$(layouts)" holds "$(layouts)" "$next"
check "rpm: no count falls" "$(none_fell /run/before 2>&1)" none_fell /run/before
quiet "rpm: upgrade"
by_rpm --upgrade --oldpackage /vm/trainguard.rpm
go_back rpm
end_attack
by_rpm --erase trainguard
done=$?
check "rpm: the package is erased" "$(tail -3 /run/rpm.log)" [ $done -eq 0 ]
check "rpm: erasing detaches" "an XDP program is on tg0" detached
exit $failed
