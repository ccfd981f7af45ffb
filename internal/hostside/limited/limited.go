// Package limited says what the unit of a control plane may do on a host: observe it and, if it repairs, restore what was applied there.
// Its key is admitted for nothing else, so whoever has it (a control plane that was broken into) cannot use it to run programs of his own,
// or to write contents of his own, on other hosts.
package limited

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/components"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/inspect"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/lease"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/hostside/machine"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/repairs"
	"quorate.dev/quorate/internal/hostside/watch"
)

// For are the limits of the units that a host admits.
func For(a watch.Admission) host.Limits {
	all := allowed(a)
	return host.Limits{
		Allow: func(operation string, request json.RawMessage) error {
			check, known := all[operation]
			if !known && a.ReadOnly {
				return fmt.Errorf("control planes are admitted to observe, and %s does more: spec.repair.watch has them repair as well", operation)
			}
			if !known {
				return fmt.Errorf("control planes are admitted for repairs, and %s is none that they make: run `quorate repair` or `quorate apply`", operation)
			}
			if check == nil {
				return nil
			}
			return check(request)
		},
		Dial: func(network, address string) error {
			if network != "tcp" || !reaches(a, address) {
				return fmt.Errorf("control planes are admitted to observe and to repair, and %s is no address of the cluster", address)
			}
			return nil
		},
	}
}

// reaches says that an address, as host:port, is one of the cluster.
func reaches(a watch.Admission, address string) bool {
	name, _, err := net.SplitHostPort(address)
	return err == nil && slices.Contains(a.Reach, name)
}

// named is an operation of the host side, with or without a permit.
type named interface{ Name() string }

// reads are the operations that an observation needs, and lead, which decides who makes it. They may be made with any request. A control plane
// has a copy of everything that it can ask for: the administrator's kubeconfig, the client certificate for etcd.
var reads = []named{
	inspect.ReadFacts, inspect.ReadClock, components.Read, balancer.Read, balancer.WhoHas, backup.Report,
	kubeadm.Admin, kubeadm.ReadEtcdClient, lease.Lead,
}

// free are the other operations that they may make with any request: what they do is determined by the host itself, or it is no more than the
// caller can do anyway. A control plane has a copy of everything that it can ask for: the keys of the authorities.
var free = []named{
	lease.Acquire, repairs.BeginAttempt, repairs.EndAttempt,
	repairs.RestartUnit, repairs.FreeDisk, programs.Tidy,
	balancer.SetPool, kubeadm.AwaitEtcd, kubeadm.FinishRejoin, kubeadm.RestartKubelet, kubeadm.UseLocalAPI,
	kubeadm.RequestCertificate, kubeadm.SignCertificate, kubeadm.InstallCertificate,
}

// allowed are all operations that they may make, each with what is checked of its request; nil for nothing.
func allowed(a watch.Admission) map[string]func(json.RawMessage) error {
	out := map[string]func(json.RawMessage) error{
		etcd.Probe.Name(): of(func(in etcd.ProbeRequest) error {
			for _, e := range in.Endpoints {
				if u, err := url.Parse(e); err != nil || !slices.Contains(a.Reach, u.Hostname()) {
					return fmt.Errorf("%s is no endpoint of this cluster's etcd", e)
				}
			}
			return nil
		}),
	}
	for _, op := range reads {
		out[op.Name()] = nil
	}
	if a.ReadOnly {
		return out
	}
	maps.Copy(out, map[string]func(json.RawMessage) error{
		files.Configure.Name():   of(a.Allows),
		files.Reconfigure.Name(): of(a.Allows),
		machine.Stop.Name():      of(onlyPods),
		machine.Start.Name():     of(onlyPods),
		kubeadm.RestoreControlPlane.Name(): of(func(in kubeadm.RestoreRequest) error {
			return a.AllowsConfig(in.Config)
		}),
		kubeadm.RejoinEtcd.Name(): of(func(in kubeadm.RejoinRequest) error {
			return errors.Join(a.AllowsConfig(in.Config), onlyMembers(in.Members))
		}),
		kubeadm.JoinEtcd.Name(): of(func(in kubeadm.EtcdStart) error {
			return errors.Join(a.AllowsConfig(in.Config), onlyMembers(in.Etcd.Members), only("token of etcd", token, in.Etcd.Token))
		}),
		kubeadm.RestartPrograms.Name(): of(func(in kubeadm.RestartRequest) error {
			return errors.Join(onlyPods(machine.Programs{Pods: in.Pods}), only("node", token, in.Node))
		}),
		kubeadm.SetNodeLabels.Name(): of(onlyLabels),
		kubeadm.SetEtcdAside.Name(): of(func(in kubeadm.AsideRequest) error {
			if in.Abandoned == "" {
				return nil
			}
			return only("ID of a member of etcd", hexadecimal, in.Abandoned)
		}),
		lostquorum.Abandon.Name(): of(func(ids []string) error { return only("ID of an etcd cluster", hexadecimal, ids...) }),
		containerd.StopContainer.Name(): of(func(in containerd.StopRequest) error {
			return onlyPods(machine.Programs{Pods: []string{in.Container}})
		}),
	})
	for _, op := range free {
		out[op.Name()] = nil
	}
	return out
}

// of checks requests of one type.
func of[In any](check func(In) error) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var in In
		if err := json.Unmarshal(raw, &in); err != nil {
			return err
		}
		return check(in)
	}
}

var (
	member      = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?=https://[0-9a-zA-Z.:\[\]-]+:2380$`)
	token       = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)
	hexadecimal = regexp.MustCompile(`^[0-9a-f]+$`)
	label       = regexp.MustCompile(`^[A-Za-z0-9./_-]*$`)
)

func only(what string, pattern *regexp.Regexp, values ...string) error {
	for _, v := range values {
		if !pattern.MatchString(v) {
			return fmt.Errorf("%q is no %s", v, what)
		}
	}
	return nil
}

func onlyMembers(members []string) error { return only("member of etcd", member, members...) }

func onlyLabels(labels map[string]string) error {
	for k, v := range labels {
		if err := only("label", label, k, v); err != nil {
			return err
		}
	}
	return nil
}

// pods are the static pods that a repair stops and starts.
var pods = []string{"etcd", facts.APIServer, facts.ControllerManager, facts.Scheduler}

func onlyPods(in machine.Programs) error {
	if in.Etcd {
		return errors.New("a repair stops and starts no etcd in this way")
	}
	for _, p := range in.Pods {
		if !slices.Contains(pods, p) {
			return fmt.Errorf("%q is no static pod that a repair stops or starts", p)
		}
	}
	return nil
}
