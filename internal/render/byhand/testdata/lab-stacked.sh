#!/usr/bin/env bash
# The cluster lab, Kubernetes v1.37.2, built by hand: what quorate plan --by-hand prints for exactly this spec.
#
# Run it with bash on a machine that can reach the hosts over SSH, or paste it host by host: the lines between <<'EOF'
# and EOF are the commands to run as root on the named host. It creates a new cluster; kubeadm refuses to run on hosts
# that already belong to one.
#
# Prerequisites:
# - Every host runs Linux with systemd, swap is off, the clocks are synchronized, and no firewall blocks the ports
#   that kubeadm's documentation lists. `quorate preflight` checks all of that.
# - On cp-a, cp-b, cp-c, worker-a, worker-b: kubeadm, kubelet, and kubectl v1.37.2, containerd, and runc are in
#   /usr/local/bin, and the CNI plugins are in /opt/cni/bin.
# - Their containerd has, or can pull, the images that `kubeadm config images list --kubernetes-version v1.37.2`
#   lists, and those of the manifests below.
# - On lb-a, lb-b: haproxy and keepalived are installed. No machine uses the address 198.18.0.200.
set -euo pipefail

# run HOST COMMAND: run a command as root on a host, over SSH.
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
    *) echo "unknown host $host" >&2; return 1 ;;
    esac
}

# on HOST <<'EOF' … EOF: run commands as root on a host. token, hash, and key are the values that kubeadm init has printed.
printed=
on() { { printf '%s\n{\n' "$printed"; cat; echo '} </dev/null'; } | run "$1" bash -euo pipefail; }

# copy FROM TO FILE…: copy files from one host to the same paths on another.
copy() {
    local from=$1 to=$2
    shift 2
    run "$from" tar -C / -c "$@" </dev/null | run "$to" tar -C / -x
}

# put HOST FILE: write standard input to a file that only root can read.
put() { run "$1" install -D -m 600 /dev/stdin "$2"; }

# start COMMAND …: run a command in the background. finish: wait for all of them, and fail if one has failed.
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
# hosts can be prepared independently of each other.
# --------------------------------------------------------------------------------------------------------------------
say '1. Prepare the hosts'

# lb-a: load balancer
start on lb-a <<'EOF'
# Every name resolves on every host, even without DNS. A kubelet looks up its own name all the time, and a DNS server
# that does not answer costs it ten seconds each time.
cat >>/etc/hosts <<'END'
…
END

# HAProxy sends clients to the API servers that are ready. keepalived keeps the address 198.18.0.200 on one load
# balancer, and moves it if that host or its HAProxy fails. HAProxy starts first, because keepalived checks it.
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
# Every name resolves on every host, even without DNS. A kubelet looks up its own name all the time, and a DNS server
# that does not answer costs it ten seconds each time.
cat >>/etc/hosts <<'END'
…
END

# HAProxy sends clients to the API servers that are ready. keepalived keeps the address 198.18.0.200 on one load
# balancer, and moves it if that host or its HAProxy fails. HAProxy starts first, because keepalived checks it.
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
# Every name resolves on every host, even without DNS. A kubelet looks up its own name all the time, and a DNS server
# that does not answer costs it ten seconds each time.
cat >>/etc/hosts <<'END'
…
END

# For the step below: if containerd already has exactly this configuration, it does not have to restart.
before=$(cat /etc/containerd/config.toml /etc/systemd/system/containerd.service /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/20-quorate.conf 2>/dev/null | sha256sum) || true

# The kernel forwards the packets of pods and passes them through iptables for kube-proxy. containerd runs the pods,
# with the sandbox image that kubeadm expects and with the systemd cgroup driver, which the kubelet also uses. The
# kubelet's unit waits for the configuration that kubeadm writes.
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
modprobe --all overlay br_netfilter 2>/dev/null || true # they may be built into the kernel
sysctl -q -p /etc/sysctl.d/90-quorate.conf

# Only for unusual machines: with cgroup v1, the systemd cgroup driver is not used, and in a container without
# CAP_SYS_RESOURCE, pods cannot start if they ask for a lower OOM score.
[ -e /sys/fs/cgroup/cgroup.controllers ] || sed -i 's/SystemdCgroup = true/SystemdCgroup = false/' /etc/containerd/config.toml
(( 0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> 24 & 1 )) || sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' /etc/containerd/config.toml

# Start them now and at boot.
if [ "$before" != "$(cat /etc/containerd/config.toml /etc/systemd/system/containerd.service /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/20-quorate.conf 2>/dev/null | sha256sum)" ]; then systemctl daemon-reload; systemctl restart containerd; fi
systemctl enable --quiet --now containerd.service kubelet.service
EOF
done

finish

# --------------------------------------------------------------------------------------------------------------------
# 2. The first control plane
# It creates the cluster. --upload-certs stores the shared keys, encrypted, in a Secret that the other control planes
# can read for two hours.
# --------------------------------------------------------------------------------------------------------------------
say '2. The first control plane'

# cp-a: kubeadm init
join=$(on cp-a <<'EOF' | tee >(sed -E 's/(--token|--certificate-key) [^ ]+/\1 .../' >&2)
# The files that the API server reads: which requests it accepts without credentials, what it writes to the audit log,
# and the key that encrypts secrets in etcd, which is generated here.
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

# Check that the endpoint can be reached. No API server runs behind the load balancer yet, but the load balancer
# accepts connections, a few seconds after it has started and taken the virtual IP.
until timeout 5 bash -c '</dev/tcp/api.lab.internal/6443'; do [ $SECONDS -lt 60 ]; sleep 0.5; done

# The configuration of this cluster for kubeadm. kubeadm's probes stay, so kubelets restart API servers while etcd
# does not answer: HAProxy's checks leave out etcd, and nothing else keeps clients from an API server whose own etcd
# is dead.
install -D -m 600 /dev/stdin /root/kubeadm-init.yaml <<'END'
…
END

# Only for unusual machines: those with cgroup v1, containers that share swap and disk with their host, and those that
# cannot set the size of the conntrack table.
[ -e /sys/fs/cgroup/cgroup.controllers ] || sed -i 's/^cgroupDriver: systemd$/cgroupDriver: cgroupfs\nfailCgroupV1: false/' /root/kubeadm-init.yaml
! systemd-detect-virt --quiet --container || sed -i 's/^kind: KubeletConfiguration$/&\nevictionHard: {"imagefs.available":"1Gi","imagefs.inodesFree":"5%","memory.available":"100Mi","nodefs.available":"1Gi","nodefs.inodesFree":"5%"}\nfailSwapOn: false\nimageGCHighThresholdPercent: 100/' /root/kubeadm-init.yaml
[ -w /proc/sys/net/netfilter/nf_conntrack_max ] || sed -i 's/^kind: KubeProxyConfiguration$/&\nconntrack: {maxPerCore: 0, min: 0}/' /root/kubeadm-init.yaml

# At the end, it prints the parameters with which the other nodes join.
ignore=
# cgroup v1, or a container, which cannot read the kernel configuration:
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
# Nodes become Ready when their pods can get addresses.
# --------------------------------------------------------------------------------------------------------------------
say '3. Pod network'

# cp-a: flannel
on cp-a <<'EOF'
# The pod network is a separate add-on; kubeadm does not install one.
install -D -m 644 /dev/stdin /root/flannel.yaml <<'END'
…
END
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl apply -f /root/flannel.yaml
EOF

# --------------------------------------------------------------------------------------------------------------------
# 4. Files for the other control planes
# kubeadm uploads its certificates, but not the other files that the API server's configuration refers to. The key is
# copied from host to host and is never stored in between.
# --------------------------------------------------------------------------------------------------------------------
say '4. Files for the other control planes'

# cp-b: the API server's files for cp-b
start copy cp-a cp-b etc/kubernetes/apiserver etc/kubernetes/pki/encryption.yaml

# cp-c: the API server's files for cp-c
start copy cp-a cp-c etc/kubernetes/apiserver etc/kubernetes/pki/encryption.yaml

finish

# --------------------------------------------------------------------------------------------------------------------
# 5. The other control planes
# They join one after another: each adds a member to etcd, and only one member can be added at a time.
# --------------------------------------------------------------------------------------------------------------------
say '5. The other control planes'

# cp-b: join as a control plane
on cp-b <<'EOF'
# kubeadm init printed the token and the CA hash, and the certificate key that decrypts the uploaded certificates.
# They are passed in a file to keep them out of process arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
install -d -m 700 /var/log/kubernetes/audit
ignore=
# cgroup v1, or a container, which cannot read the kernel configuration:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# cp-c: join as a control plane
on cp-c <<'EOF'
# kubeadm init printed the token and the CA hash, and the certificate key that decrypts the uploaded certificates.
# They are passed in a file to keep them out of process arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
install -d -m 700 /var/log/kubernetes/audit
ignore=
# cgroup v1, or a container, which cannot read the kernel configuration:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# --------------------------------------------------------------------------------------------------------------------
# 6. The workers
# The workers join in the same way, without the control-plane parts.
# --------------------------------------------------------------------------------------------------------------------
say '6. The workers'

# worker-a: join as a worker
on worker-a <<'EOF'
# kubeadm init printed the token and the CA hash. They are passed in a file to keep them out of process arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
ignore=
# cgroup v1, or a container, which cannot read the kernel configuration:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# worker-b: join as a worker
on worker-b <<'EOF'
# kubeadm init printed the token and the CA hash. They are passed in a file to keep them out of process arguments.
install -D -m 600 /dev/stdin /root/kubeadm-join.yaml <<END
…
END
ignore=
# cgroup v1, or a container, which cannot read the kernel configuration:
if ! [ -e /sys/fs/cgroup/cgroup.controllers ] || systemd-detect-virt --quiet --container; then ignore=SystemVerification; fi
kubeadm join --config /root/kubeadm-join.yaml --ignore-preflight-errors="$ignore"
rm /root/kubeadm-join.yaml
EOF

# --------------------------------------------------------------------------------------------------------------------
# 7. Finish
# kubeadm leaves these steps to the operator.
# --------------------------------------------------------------------------------------------------------------------
say '7. Finish'

# cp-a: finish
on cp-a <<'EOF'
# On a worker, kubeadm join returns before its Node object exists.
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl wait --for=create --timeout=2m node/cp-a node/cp-b node/cp-c node/worker-a node/worker-b

# Wait until all nodes are Ready.
kubectl wait --for=condition=Ready --timeout=5m node --all

# kubeadm only prefers different nodes for the replicas of CoreDNS, and when they started, there was only the first
# control plane: all of them run there. Make different nodes a condition, and more than one zone, too. The replicas
# are then replaced one after another.
install -D -m 644 /dev/stdin /root/coredns.yaml <<'END'
…
END
kubectl -n kube-system patch deployment coredns --type merge --patch-file /root/coredns.yaml

# Each kubelet requests a serving certificate from the cluster's CA, and no component of Kubernetes approves the
# request; until then, kubectl logs and exec fail. These commands approve the request of each node. If you do not
# trust every host, check the requests first. Repeat this once a year, when the certificates are renewed.
for node in cp-a cp-b cp-c worker-a worker-b; do
    until requests=$(kubectl get csr --field-selector=spec.signerName=kubernetes.io/kubelet-serving -o jsonpath="{.items[?(@.spec.username=='system:node:$node')].metadata.name}") && [ -n "$requests" ]; do
        [ $SECONDS -lt 600 ]
        sleep 0.5
    done
    kubectl certificate approve $requests
done

# The token is no longer needed, and anyone who has it could join a host.
kubeadm token delete "${token%%.*}"
kubectl --namespace kube-system delete secret kubeadm-certs --ignore-not-found

# Check the result.
kubectl get nodes -o wide
kubectl get --raw '/readyz?verbose' | tail -n 1
EOF
