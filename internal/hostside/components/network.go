package components

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/components/programs/flannel/health"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/flags"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/system"
)

// inside is the path of a file as the process sees it: in a container, it is not the host's file.
func (a *attempt) inside(p process, name string) string {
	return filepath.Join(a.proc, strconv.Itoa(p.pid), "root", name)
}

// inPodOf reports whether a container with these labels is in kubeadm's or flannel's pod of a program.
func inPodOf(labels map[string]string, program string) bool {
	pod, namespace := labels[containerd.PodLabel], labels[containerd.PodNamespaceLabel]
	if program == flanneld {
		return strings.HasPrefix(pod, "kube-flannel-") // in a namespace that flannel's chart lets users choose
	}
	return namespace == "kube-system" && strings.HasPrefix(pod, program+"-")
}

// notRunning is the answer about a program that has no process.
func (a *attempt) notRunning(name string) facts.Answer {
	if n := len(a.processes()[name]); n > 0 {
		return facts.Answer{Unknown: fmt.Sprintf("%d processes are named %s, and containerd does not say which of them is the cluster's", n, name)}
	}
	return facts.Answer{Problem: name + " does not run"}
}

// kubeProxy queries kube-proxy for its health and the kernel for its rules, because kube-proxy does not notice if another
// program deletes them.
func (a *attempt) kubeProxy(ctx context.Context) facts.Answer {
	p, ok := a.find(ctx, facts.KubeProxy)
	if !ok {
		return a.notRunning(facts.KubeProxy)
	}
	var config struct {
		Mode           string `json:"mode"`
		BindAddress    string `json:"bindAddress"`
		ClusterCIDR    string `json:"clusterCIDR"` // one range, or one of each family
		HealthzAddress string `json:"healthzBindAddress"`
	}
	path := cmp.Or(flags.Parse(p.args[1:])["config"], "/var/lib/kube-proxy/config.conf")
	text, err := readFile(a.inside(p, path))
	if err == nil {
		err = yaml.Unmarshal(text, &config)
	}
	if err != nil {
		return facts.Answer{Unknown: "its configuration could not be read: " + err.Error()}
	}
	host, port, err := net.SplitHostPort(cmp.Or(config.HealthzAddress, "0.0.0.0:10256"))
	if err != nil {
		return facts.Answer{Unknown: "its configuration does not say where it listens: " + err.Error()}
	}
	// /healthz also fails on a healthy node that is being deleted; kube-proxy before 1.28 has nothing else.
	base := "http://" + net.JoinHostPort(loopback(host), port)
	answer, status := getStatus(ctx, base+"/livez")
	if status == http.StatusNotFound {
		answer = get(ctx, base+"/healthz")
	}
	if !answer.OK || config.Mode != "nftables" {
		return answer
	}
	families := []string{"ip"}
	switch {
	case strings.Contains(config.ClusterCIDR, ","):
		families = []string{"ip", "ip6"}
	case strings.Contains(config.BindAddress, ":"):
		families = []string{"ip6"}
	}
	for _, family := range families {
		if answer := a.whole(family, "kube-proxy", "services"); !answer.OK {
			return answer
		}
	}
	return answer
}

// flannelConfig is the part of flannel's configuration that determines what it sets up.
type flannelConfig struct {
	Network        string
	IPv6Network    string
	EnableIPv4     *bool
	EnableIPv6     bool
	EnableNFTables bool
	Backend        struct {
		Type          string
		VNI           int
		DirectRouting bool
	}
}

// four says that flannel connects pods with IPv4, which is its default.
func (c flannelConfig) four() bool { return c.EnableIPv4 == nil || *c.EnableIPv4 }

// flannel reads flanneld's health report, if there is one, and queries the kernel for what flanneld set up.
func (a *attempt) flannel(ctx context.Context) (facts.Answer, *facts.Overlay) {
	p, ok := a.find(ctx, flanneld)
	if !ok {
		return a.notRunning(flanneld), nil
	}
	given := flags.Parse(p.args[1:])
	var config flannelConfig
	text, err := readFile(a.inside(p, cmp.Or(given["net-config-path"], "/etc/kube-flannel/net-conf.json")))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		return facts.Answer{Unknown: "its configuration could not be read: " + err.Error()}, nil
	}
	if port := given["healthz-port"]; port != "" && port != "0" {
		if answer := get(ctx, "http://"+net.JoinHostPort(loopback(given["healthz-ip"]), port)+"/healthz"); !answer.OK {
			return answer, nil
		}
	}
	report, restored := judgeReport(a.inside(p, cmp.Or(given["health-file"], health.File)), time.Now())
	if !report.OK {
		return report, nil
	}
	subnet := cmp.Or(given["subnet-file"], "/run/flannel/subnet.env")
	if !system.Exists(a.inside(p, subnet)) {
		return facts.Answer{Problem: subnet + " is missing: pods cannot start here"}, nil
	}
	if !config.four() && !config.EnableIPv6 {
		return facts.Answer{OK: true}, nil
	}
	if config.EnableNFTables {
		var chains []string
		if given["ip-masq"] == "true" {
			chains = append(chains, "postrtg")
		}
		if given["iptables-forward-rules"] != "false" {
			chains = append(chains, "forward")
		}
		for _, t := range []struct {
			used          bool
			family, table string
		}{{config.four(), "ip", "flannel-ipv4"}, {config.EnableIPv6, "ip6", "flannel-ipv6"}} {
			if !t.used {
				continue
			}
			if answer := a.whole(t.family, t.table, chains...); !answer.OK {
				return answer, nil
			}
		}
	}
	answer, overlay := a.kernel.overlay(config)
	if overlay != nil {
		overlay.Restored = restored
	}
	return answer, overlay
}

// whole reports whether a table of rules is as its program left it: each of the given chains exists and has rules, and so does
// every other base chain.
func (a *attempt) whole(family, table string, chains ...string) facts.Answer {
	have, err := a.kernel.chains(family, table)
	name := "the nftables table " + family + " " + table
	switch {
	case err != nil:
		return facts.Answer{Unknown: "reading " + name + ": " + err.Error()}
	case have == nil:
		return facts.Answer{Problem: name + " is missing"}
	}
	must := map[string]bool{}
	for _, c := range chains {
		must[c] = true
		if _, ok := have[c]; !ok {
			return facts.Answer{Problem: "the chain " + c + " of " + name + " is missing"}
		}
	}
	hooks := 0
	for _, c := range sortedKeys(have) {
		if have[c].hook {
			hooks++
		}
		if (have[c].hook || must[c]) && have[c].rules == 0 {
			return facts.Answer{Problem: "the chain " + c + " of " + name + " has no rules"}
		}
	}
	if hooks == 0 {
		return facts.Answer{Problem: name + " has no base chain"}
	}
	return facts.Answer{OK: true}
}
