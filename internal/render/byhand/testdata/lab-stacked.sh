#!/usr/bin/env bash
# The cluster lab, Kubernetes v1.37.2, built by hand: what quorate plan --by-hand prints for exactly this spec.
#
# It can be run as it is, with bash, on a machine that reaches the hosts over SSH. Or host by host: what stands
# between <<'EOF' and EOF is what root types on the host that is named. It makes a new cluster; on hosts that have
# one, kubeadm refuses.
#
# Before it begins:
# - Every host runs Linux with systemd; swap is off, clocks agree, and no firewall is between the ports that kubeadm's
#   documentation names. `quorate preflight` looks at all of that.
# - On cp-a, cp-b, cp-c, worker-a, worker-b: kubeadm, kubelet and kubectl v1.37.2, containerd and runc in
#   /usr/local/bin, and the CNI plugins in /opt/cni/bin.
# - Their containerd has, or can pull, the images that `kubeadm config images list --kubernetes-version v1.37.2`
#   names, and those of the manifests below.
# - On lb-a, lb-b: haproxy and keepalived. No machine has the address 198.18.0.200.
set -euo pipefail

# run HOST COMMAND: as root, over SSH.
run() {
    local host=$1
    shift
    case $host in
    cp-a) ssh root@198.18.0.11 "$@" ;;
    cp-b) ssh root@198.18.0.12 "$@" ;;
    cp-c) ssh root@198.18.0.13 "$@" ;;
    worker-a) ssh root@198.18.0.14 "$@" ;;
    worker-b) ssh root@198.18.0.15 "$@" ;;
    lb-a) ssh root@198.18.0.16 "$@" ;;
    lb-b) ssh root@198.18.0.17 "$@" ;;
    *) echo "there is no host $host" >&2; return 1 ;;
    esac
}

# on HOST <<'EOF' … EOF: what root types there. token, hash and key are what kubeadm init has printed.
printed=
on() { { printf '%s\n{\n' "$printed"; cat; echo '} </dev/null'; } | run "$1" bash -euo pipefail; }

# copy FROM TO FILE…: from one host to the same place on another.
copy() {
    local from=$1 to=$2
    shift 2
    run "$from" tar -C / -c "$@" </dev/null | run "$to" tar -C / -x
}

# put HOST FILE: its standard input, as a file that only root reads.
put() { run "$1" install -D -m 600 /dev/stdin "$2"; }

# start COMMAND …: without waiting for it. finish: wait for all that were started; one that failed is the end.
started=()
start() { { "$@" <&3 & } 3<&0; started+=("$!"); }
finish() {
    local one status=0
    for one in "${started[@]}"; do wait "$one" || status=$?; done
    started=()
    return "$status"
}

say() { printf '\n== %s\n' "$*" >&2; }

# --------------------------------------------------------------------------------------------------------------------
# 1. Prepare the hosts
# kubeadm expects a load balancer in front of the control planes, a container runtime, and names that resolve. The
# hosts do not need each other for it.
# --------------------------------------------------------------------------------------------------------------------
say '1. Prepare the hosts'

# lb-a: load balancer
start on lb-a <<'EOF'
# Every name resolves on every host, whatever becomes of DNS: a kubelet looks its own name up all the time, and a
# server that does not answer costs it ten seconds each time.
cat >>/etc/hosts <<'END'
…
END

# HAProxy sends clients to the API servers that are ready. keepalived keeps the address 198.18.0.200 on one balancer,
# and moves it when that host, or its HAProxy, is gone. HAProxy comes first, because keepalived asks it.
install -D -m 644 /dev/stdin /etc/haproxy/haproxy.cfg <<'END'
…
END
install -D -m 644 /dev/stdin /etc/systemd/system/haproxy.service.d/quorate.conf <<'END'
…
END
install -D -m 755 /dev/stdin /etc/keepalived/check-haproxy <<'END'
…
END
install -D -m 644 /dev/stdin /etc/keepalived/keepalived.conf <<'END'
…
END
install -D -m 644 /dev/stdin /etc/systemd/system/keepalived.service.d/quorate.conf <<'END'
…
END
read -r _ interface _ address _ < <(ip -o -4 address show to 198.18.0.16)
sed -i "s|INTERFACE|$interface|; s|PREFIX|${address#*/}|" /etc/keepalived/keepalived.conf
systemctl daemon-reload
systemctl enable --quiet haproxy keepalived
systemctl restart haproxy
systemctl restart keepalived
EOF

# lb-b: load balancer
start on lb-b <<'EOF'
# Every name resolves on every host, whatever becomes of DNS: a kubelet looks its own name up all the time, and a
# server that does not answer costs it ten seconds each time.
cat >>/etc/hosts <<'END'
…
END

# HAProxy sends clients to the API servers that are ready. keepalived keeps the address 198.18.0.200 on one balancer,
# and moves it when that host, or its HAProxy, is gone. HAProxy comes first, because keepalived asks it.
install -D -m 644 /dev/stdin /etc/haproxy/haproxy.cfg <<'END'
…
END
install -D -m 644 /dev/stdin /etc/systemd/system/haproxy.service.d/quorate.conf <<'END'
…
END
install -D -m 755 /dev/stdin /etc/keepalived/check-haproxy <<'END'
…
END
install -D -m 644 /dev/stdin /etc/keepalived/keepalived.conf <<'END'
…
END
install -D -m 644 /dev/stdin /etc/systemd/system/keepalived.service.d/quorate.conf <<'END'
…
END
read -r _ interface _ address _ < <(ip -o -4 address show to 198.18.0.17)
sed -i "s|INTERFACE|$interface|; s|PREFIX|${address#*/}|" /etc/keepalived/keepalived.conf
systemctl daemon-reload
systemctl enable --quiet haproxy keepalived
systemctl restart haproxy
systemctl restart keepalived
EOF

# cp-a, cp-b, cp-c, worker-a, worker-b: container runtime
for host in cp-a cp-b cp-c worker-a worker-b; do
start on "$host" <<'EOF'
# Every name resolves on every host, whatever becomes of DNS: a kubelet looks its own name up all the time, and a
# server that does not answer costs it ten seconds each time.
cat >>/etc/hosts <<'END'
…
END

# For later: a containerd that has exactly this configuration already need not start again.
before=$(cat /etc/containerd/config.toml /etc/systemd/system/containerd.service /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/20-quorate.conf 2>/dev/null | sha256sum) || true

# The kernel forwards pods' packets and lets kube-proxy see them. containerd runs the pods, with the sandbox image
# that kubeadm wants and with systemd in charge of cgroups, as the kubelet has it too. The kubelet's unit waits for
# the configuration that kubeadm gives it.
install -D -m 644 /dev/stdin /etc/modules-load.d/quorate.conf <<'END'
…
END
install -D -m 644 /dev/stdin /etc/sysctl.d/90-quorate.conf <<'END'
…
END
install -D -m 644 /dev/stdin /etc/containerd/config.toml <<'END'
…
END
install -D -m 644 /dev/stdin /etc/systemd/system/containerd.service <<'END'
…
END
install -D -m 600 /dev/stdin /etc/systemd/system/kubelet.service <<'END'
…
END
install -D -m 600 /dev/stdin /etc/systemd/system/kubelet.service.d/10-kubeadm.conf <<'END'
…
END
install -D -m 600 /dev/stdin /etc/systemd/system/kubelet.service.d/20-quorate.conf <<'END'
…
END
modprobe --all overlay br_netfilter 2>/dev/null || true # a kernel that has them built in has nothing to load
sysctl -q -p /etc/sysctl.d/90-quorate.conf

# Only on machines that are no ordinary servers: with cgroup v1 systemd is not in charge, and in a container without
# CAP_SYS_RESOURCE asking for a lower OOM score keeps pods from starting.
[ -e /sys/fs/cgroup/cgroup.controllers ] || sed -i 's/SystemdCgroup = true/SystemdCgroup = false/' /etc/containerd/config.toml
(( 0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> 24 & 1 )) || sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' /etc/containerd/config.toml

# Start them, now and at boot.
if [ "$before" != "$(cat /etc/containerd/config.toml /etc/systemd/system/containerd.service /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/20-quorate.conf 2>/dev/null | sha256sum)" ]; then systemctl daemon-reload; systemctl restart containerd; fi
systemctl enable --quiet --now containerd.service kubelet.service
EOF
done

finish

# --------------------------------------------------------------------------------------------------------------------
# 2. The first control plane
# It begins the cluster. --upload-certs puts the shared keys, encrypted, where the other control planes find them for
# two hours.
# --------------------------------------------------------------------------------------------------------------------
say '2. The first control plane'

# cp-a: kubeadm init
join=$(on cp-a <<'EOF' | tee >(sed -E 's/(--token|--certificate-key) [^ ]+/\1 .../' >&2)
# What the API server reads: whom it answers without credentials, what it writes to the audit log, and the key that
# encrypts secrets in etcd, made here.
install -D -m 600 /dev/stdin /etc/kubernetes/apiserver/audit-policy.yaml <<'END'
…
END
install -D -m 600 /dev/stdin /etc/kubernetes/apiserver/authentication.yaml <<'END'
…
END
install -D -m 600 /dev/stdin /etc/kubernetes/pki/encryption.yaml <<END
…
END
install -d -m 700 /var/log/kubernetes/audit

# Is the way to the endpoint open? Nobody stands behind the balancer yet, but it answers.
timeout 5 bash -c '</dev/tcp/api.lab.internal/6443'

# What this cluster is to be, in kubeadm's words.
install -D -m 600 /dev/stdin /root/kubeadm-init.yaml <<'END'
…
END

# Only on machines that are no ordinary servers: cgroup v1, a container above somebody else's swap and disk, or no say
# in the size of conntrack's table.
[ -e /sys/fs/cgroup/cgroup.controllers ] || sed -i 's/^cgroupDriver: systemd$/cgroupDriver: cgroupfs\nfailCgroupV1: false/' /root/kubeadm-init.yaml
! systemd-detect-virt --quiet --container || sed -i 's/^kind: KubeletConfiguration$/&\nevictionHard: {"imagefs.available":"1Gi","imagefs.inodesFree":"5%","memory.available":"100Mi","nodefs.available":"1Gi","nodefs.inodesFree":"5%"}\nfailSwapOn: false\nimageGCHighThresholdPercent: 100/' /root/kubeadm-init.yaml
[ -w /proc/sys/net/netfilter/nf_conntrack_max ] || sed -i 's/^kind: KubeProxyConfiguration$/&\nconntrack: {maxPerCore: 0, min: 0}/' /root/kubeadm-init.yaml

# It ends with the words with which the others join.
ignore=
# cgroup v1, and a kernel configuration that a container does not see:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm init --upload-certs --config /root/kubeadm-init.yaml --ignore-preflight-errors="$ignore"
EOF
)
word() { grep -oE -m 1 -e "--$1 [^ ]+" <<<"$join" | cut -d ' ' -f 2; }
token=$(word token)
hash=$(word discovery-token-ca-cert-hash)
key=$(word certificate-key)
printed="token=$token hash=$hash key=$key"

# --------------------------------------------------------------------------------------------------------------------
# 3. Pod network
# Nodes become Ready when pods can have addresses.
# --------------------------------------------------------------------------------------------------------------------
say '3. Pod network'

# cp-a: flannel
on cp-a <<'EOF'
# The pods' network is an add-on of its own; kubeadm installs none.
install -D -m 644 /dev/stdin /root/flannel.yaml <<'END'
…
END
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl apply -f /root/flannel.yaml
EOF

# --------------------------------------------------------------------------------------------------------------------
# 4. Files for the other control planes
# kubeadm uploads its certificates, but not what else the API server's configuration refers to. The key goes from host
# to host and is nowhere in between.
# --------------------------------------------------------------------------------------------------------------------
say '4. Files for the other control planes'

# cp-b: the API server's files for cp-b
start copy cp-a cp-b etc/kubernetes/apiserver etc/kubernetes/pki/encryption.yaml

# cp-c: the API server's files for cp-c
start copy cp-a cp-c etc/kubernetes/apiserver etc/kubernetes/pki/encryption.yaml

finish

# --------------------------------------------------------------------------------------------------------------------
# 5. The other control planes
# One after another: each adds a member to etcd, which must not be asked for two at a time.
# --------------------------------------------------------------------------------------------------------------------
say '5. The other control planes'

# cp-b: join as a control plane
on cp-b <<'EOF'
# Token and CA hash are those that kubeadm init printed, and the certificate key decrypts what it uploaded. In a file
# they are in no process's arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
install -d -m 700 /var/log/kubernetes/audit
ignore=
# cgroup v1, and a kernel configuration that a container does not see:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# cp-c: join as a control plane
on cp-c <<'EOF'
# Token and CA hash are those that kubeadm init printed, and the certificate key decrypts what it uploaded. In a file
# they are in no process's arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
install -d -m 700 /var/log/kubernetes/audit
ignore=
# cgroup v1, and a kernel configuration that a container does not see:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# --------------------------------------------------------------------------------------------------------------------
# 6. The workers
# The same, without the control plane's part.
# --------------------------------------------------------------------------------------------------------------------
say '6. The workers'

# worker-a: join as a worker
on worker-a <<'EOF'
# Token and CA hash are those that kubeadm init printed. In a file they are in no process's arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
ignore=
# cgroup v1, and a kernel configuration that a container does not see:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# worker-b: join as a worker
on worker-b <<'EOF'
# Token and CA hash are those that kubeadm init printed. In a file they are in no process's arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
ignore=
# cgroup v1, and a kernel configuration that a container does not see:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# --------------------------------------------------------------------------------------------------------------------
# 7. Finish
# What kubeadm leaves to the operator.
# --------------------------------------------------------------------------------------------------------------------
say '7. Finish'

# cp-a: finish
on cp-a <<'EOF'
# A worker's kubeadm join ends before its node is there.
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl wait --for=create --timeout=2m node/cp-a node/cp-b node/cp-c node/worker-a node/worker-b

# Believe the nodes, not exit statuses.
kubectl wait --for=condition=Ready --timeout=5m node --all

# The first control plane was alone when CoreDNS started, so all of it is there: one node would be all of DNS.
kubectl -n kube-system rollout restart deployment coredns

# Each kubelet asks for a serving certificate of the cluster's CA, and nobody in Kubernetes approves it; until then
# kubectl logs and exec fail. Here each node's own request is approved. Look at them first if you do not trust every
# host, and do it again once a year, when they are renewed.
for node in cp-a cp-b cp-c worker-a worker-b; do
    until requests=$(kubectl get csr --field-selector=spec.signerName=kubernetes.io/kubelet-serving -o jsonpath="{.items[?(@.spec.username=='system:node:$node')].metadata.name}") && [ -n "$requests" ]; do
        [ $SECONDS -lt 600 ]
        sleep 0.5
    done
    kubectl certificate approve $requests
done

# Whoever has the token could join a host: it is needed no longer.
kubeadm token delete "${token%%.*}"
kubectl --namespace kube-system delete secret kubeadm-certs --ignore-not-found

# Look at it.
kubectl get nodes -o wide
kubectl get --raw '/readyz?verbose' | tail -n 1
EOF
