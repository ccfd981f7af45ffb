package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// scrapeTimeout is how long one program may take to report, and scrapeAttempts how often it is asked at most: on a busy computer, some answer is late
// at nearly any moment, and what is missing fails the benchmark.
const (
	scrapeTimeout  = 20 * time.Second
	scrapeAttempts = 3
)

// measured is the cluster that is measured.
type measured struct {
	spec *spec.Cluster
	lab  *lab.Lab
	// apis are clients of each API server, by host.
	apis map[string]kubernetes.Interface
}

func open(ctx context.Context, c *spec.Cluster) (*measured, error) {
	c, err := machines.Open(c)
	if err != nil {
		return nil, err
	}
	l, err := lab.Open(c.Metadata.Name)
	if err != nil {
		return nil, err
	}
	e := run.OpenToRead(ctx, c, progress.Discard)
	defer e.Close()
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := run.ForCaller(c, admin, true)
	if err != nil {
		return nil, err
	}
	through, err := clientcmd.NewDefaultClientConfig(*config, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	m := &measured{spec: c, lab: l, apis: map[string]kubernetes.Interface{}}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		one := rest.CopyConfig(through) // its certificate has the endpoint's name, too
		one.Host, one.Timeout = "https://"+h.Address+":"+hostconfig.APIPort, scrapeTimeout
		if m.apis[h.Name], err = kubernetes.NewForConfig(one); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// snapshot is everything at one moment. What could not be read is missing, and named.
type snapshot struct {
	at       time.Time
	api      map[string]families
	etcd     map[string]families
	usage    map[string]map[string]Usage
	balancer map[string]map[string]string
	missing  []string
}

func (m *measured) look(ctx context.Context) *snapshot {
	s := &snapshot{at: time.Now(), api: map[string]families{}, etcd: map[string]families{}, usage: map[string]map[string]Usage{}, balancer: map[string]map[string]string{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	read := func(what string, f func(context.Context) (func(), error)) {
		wg.Go(func() {
			store, err := scrape(ctx, scrapeTimeout, f)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.missing = append(s.missing, what+": "+err.Error())
				return
			}
			store()
		})
	}
	for name, api := range m.apis {
		read("API server on "+name, func(ctx context.Context) (func(), error) {
			raw, err := api.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
			if err != nil {
				return nil, err
			}
			f, err := parse(bytes.NewReader(raw))
			return func() { s.api[name] = f }, err
		})
	}
	for _, h := range m.spec.EtcdHosts() {
		read("etcd on "+h.Name, func(ctx context.Context) (func(), error) {
			text, err := m.on(ctx, h.Name, "sh", "-c", `printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t 10 - TCP:127.0.0.1:2381`)
			if err != nil {
				return nil, err
			}
			_, body, found := strings.Cut(text, "\r\n\r\n")
			if !found {
				return nil, errors.New("no answer")
			}
			f, err := parse(strings.NewReader(body))
			return func() { s.etcd[h.Name] = f }, err
		})
	}
	for _, machine := range m.lab.Machines() {
		read("processes on "+machine.Name, func(ctx context.Context) (func(), error) {
			text, err := m.on(ctx, machine.Name, "ps", "-eo", "comm=,rss=,cputimes=")
			if err != nil {
				return nil, err
			}
			p, err := processes(text)
			return func() { s.usage[machine.Name] = p }, err
		})
	}
	for _, h := range m.spec.BalancerHosts() {
		read("HAProxy on "+h.Name, func(ctx context.Context) (func(), error) {
			text, err := m.on(ctx, h.Name, "sh", "-c", "echo show info | socat -t 5 - UNIX-CONNECT:"+hostconfig.HAProxySocket)
			if err != nil {
				return nil, err
			}
			info := map[string]string{}
			for line := range strings.Lines(text) {
				if key, value, ok := strings.Cut(line, ":"); ok {
					info[key] = strings.TrimSpace(value)
				}
			}
			return func() { s.balancer[h.Name] = info }, nil
		})
	}
	wg.Wait()
	return s
}

// scrape asks until there is an answer.
func scrape(ctx context.Context, timeout time.Duration, ask func(context.Context) (func(), error)) (store func(), err error) {
	for range scrapeAttempts {
		asking, cancel := context.WithTimeout(ctx, timeout)
		store, err = ask(asking)
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return store, err
}

// on runs a command on a machine, and returns what it prints.
func (m *measured) on(ctx context.Context, machine string, argv ...string) (string, error) {
	var out, errOut bytes.Buffer
	if err := m.lab.Exec(ctx, machine, argv, nil, &out, &errOut); err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Etcd is how one member is.
type Etcd struct {
	Host      string  `json:"host"`
	DBMiB     float64 `json:"dbMiB"`
	InUseMiB  float64 `json:"inUseMiB"`
	FsyncP99  float64 `json:"fsyncP99Milliseconds"`
	CommitP99 float64 `json:"commitP99Milliseconds"`
	Leader    bool    `json:"leader"`
}

// Balancer is how many connections a load balancer has.
type Balancer struct {
	Host        string `json:"host"`
	Connections string `json:"connections"`
	Limit       string `json:"limit"`
	Accepted    string `json:"acceptedSinceStart"`
}

// Phase is what was measured in one part of the benchmark.
type Phase struct {
	Name      string     `json:"name"`
	Seconds   float64    `json:"seconds"`
	Latencies []Latency  `json:"latencies"`
	Usage     []Usage    `json:"usage"`
	Etcd      []Etcd     `json:"etcd"`
	Balancers []Balancer `json:"balancers"`
	// Rejected are requests that API servers refused because they were busy.
	Rejected float64 `json:"rejectedRequests"`
	// Missing is what could not be read.
	Missing []string `json:"missing,omitempty"`
}

// phase evaluates two snapshots.
func phase(name string, before, after *snapshot) Phase {
	p := Phase{Name: name, Seconds: after.at.Sub(before.at).Seconds(), Missing: slices.Concat(before.missing, after.missing)}
	calls := map[string]histogram{}
	for host, f := range after.api {
		for _, kind := range []func(*dto.Metric) string{call, callOf} {
			merge(calls, between(before.api[host], f, "apiserver_request_sli_duration_seconds", kind))
		}
		rejected := f.value("apiserver_flowcontrol_rejected_requests_total")
		if b := before.api[host]; b != nil && sameProcess(b, f) {
			rejected -= b.value("apiserver_flowcontrol_rejected_requests_total")
		}
		p.Rejected += rejected
	}
	p.Latencies, p.Usage = latencies(calls), usage(before.usage, after.usage, p.Seconds)
	for _, host := range sorted(after.etcd) {
		f := after.etcd[host]
		p99 := func(name string) float64 {
			all := between(before.etcd[host], f, name, one)
			v, _ := all["all"].quantile(0.99)
			return 1000 * v
		}
		p.Etcd = append(p.Etcd, Etcd{Host: host, DBMiB: f.value("etcd_mvcc_db_total_size_in_bytes") / (1 << 20), InUseMiB: f.value("etcd_mvcc_db_total_size_in_use_in_bytes") / (1 << 20),
			FsyncP99: p99("etcd_disk_wal_fsync_duration_seconds"), CommitP99: p99("etcd_disk_backend_commit_duration_seconds"), Leader: f.value("etcd_server_is_leader") == 1})
	}
	for _, host := range sorted(after.balancer) {
		info := after.balancer[host]
		p.Balancers = append(p.Balancers, Balancer{Host: host, Connections: info["CurrConns"], Limit: info["Maxconn"], Accepted: info["CumConns"]})
	}
	return p
}
