package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// families are the metrics of one program at one moment.
type families map[string]*dto.MetricFamily

func parse(in io.Reader) (families, error) {
	p := expfmt.NewTextParser(model.UTF8Validation)
	out, err := p.TextToMetricFamilies(in)
	return out, err
}

// value is the sum of a gauge's or counter's values with these labels, given as pairs.
func (f families) value(name string, pairs ...string) float64 {
	sum := 0.0
	for _, m := range f[name].GetMetric() {
		if has(m, pairs) {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return sum
}

func has(m *dto.Metric, pairs []string) bool {
	for i := 0; i+1 < len(pairs); i += 2 {
		if label(m, pairs[i]) != pairs[i+1] {
			return false
		}
	}
	return true
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// histogram counts observations by the upper bounds of their buckets.
type histogram map[float64]float64

// add adds what a metric counts, or takes it away.
func (h histogram) add(m *dto.Metric, sign float64) {
	for _, b := range m.GetHistogram().GetBucket() {
		h[b.GetUpperBound()] += sign * float64(b.GetCumulativeCount())
	}
	h[math.Inf(1)] += sign * float64(m.GetHistogram().GetSampleCount())
	// The last bucket is the count itself, which programs also write as a bucket of its own.
	for _, b := range m.GetHistogram().GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			h[math.Inf(1)] -= sign * float64(b.GetCumulativeCount())
		}
	}
}

func (h histogram) count() float64 { return h[math.Inf(1)] }

// quantile is an estimate of the value below which that part of the observations lies, as Prometheus makes it: the observations of a bucket
// are taken to be spread evenly. over says that it is above the last bound, which is then returned.
func (h histogram) quantile(part float64) (value float64, over bool) {
	var bounds []float64
	for b := range h {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	rank := part * h.count()
	if len(bounds) == 0 || h.count() <= 0 {
		return 0, false
	}
	lower, before := 0.0, 0.0
	for _, b := range bounds {
		if h[b] >= rank {
			if math.IsInf(b, 1) {
				return lower, true
			}
			if in := h[b] - before; in > 0 {
				return lower + (b-lower)*(rank-before)/in, false
			}
			return b, false
		}
		lower, before = b, h[b]
	}
	return lower, true
}

// between is what was counted from one snapshot of a program to the next. A program that was started in between has counted from zero.
func between(before, after families, name string, key func(*dto.Metric) string) map[string]histogram {
	out := map[string]histogram{}
	count := func(f families, sign float64) {
		for _, m := range f[name].GetMetric() {
			k := key(m)
			if k == "" {
				continue
			}
			if out[k] == nil {
				out[k] = histogram{}
			}
			out[k].add(m, sign)
		}
	}
	count(after, 1)
	if before != nil && sameProcess(before, after) {
		count(before, -1)
	}
	return out
}

func sameProcess(before, after families) bool {
	const started = "process_start_time_seconds"
	return before.value(started) == after.value(started)
}

func merge(into, from map[string]histogram) {
	for k, h := range from {
		if into[k] == nil {
			into[k] = histogram{}
		}
		for b, n := range h {
			into[k][b] += n
		}
	}
}

// call is the kind of a request to the API: VERB scope. Requests that last as long as the client wants do not count, nor do those that are
// answered by a node or a pod, nor the removal of whole collections, for which there is no objective.
func call(m *dto.Metric) string {
	verb, scope := label(m, "verb"), label(m, "scope")
	if slices.Contains([]string{"WATCH", "WATCHLIST", "CONNECT", "PROXY", "DELETECOLLECTION"}, verb) || scope == "" {
		return ""
	}
	if slices.Contains([]string{"proxy", "attach", "exec", "log", "portforward"}, label(m, "subresource")) {
		return ""
	}
	return verb + " " + scope
}

// callOf is the kind together with what the request is about, which Kubernetes' objectives distinguish: VERB scope resource. Otherwise, leases would
// hide everything else, because they are most of all requests.
func callOf(m *dto.Metric) string {
	kind := call(m)
	if kind == "" {
		return ""
	}
	resource := label(m, "resource")
	if group := label(m, "group"); group != "" {
		resource += "." + group
	}
	if sub := label(m, "subresource"); sub != "" {
		resource += "/" + sub
	}
	return kind + " " + resource
}

// leastCalls is how many requests there must be of a kind about one resource: 99 of 100 are at most all of them otherwise. Those about all
// resources together count always.
const leastCalls = 100

func aboutOne(kind string) bool { return strings.Count(kind, " ") > 1 }

// objective is within how many seconds 99 of 100 requests of a kind must be answered
// (https://github.com/kubernetes/community/blob/master/sig-scalability/slos/slos.md): 1 for one object, 30 for a list of a namespace or of the
// cluster.
func objective(kind string) float64 {
	verb, scope, _ := strings.Cut(kind, " ")
	scope, _, _ = strings.Cut(scope, " ")
	if (verb == "GET" || verb == "LIST") && scope != "resource" {
		return 30
	}
	return 1
}

// Latency is the latency of one kind of request.
type Latency struct {
	Kind      string  `json:"kind"`
	Count     float64 `json:"count"`
	P50       float64 `json:"p50Seconds"`
	P99       float64 `json:"p99Seconds"`
	Over      bool    `json:"overLastBucket,omitempty"`
	Objective float64 `json:"objectiveSeconds"`
	Met       bool    `json:"met"`
}

// latencies are those of all kinds, by name.
func latencies(all map[string]histogram) (out []Latency) {
	for kind, h := range all {
		if h.count() <= 0 || aboutOne(kind) && h.count() < leastCalls {
			continue
		}
		p99, over := h.quantile(0.99)
		p50, _ := h.quantile(0.5)
		l := Latency{Kind: kind, Count: h.count(), P50: p50, P99: p99, Over: over, Objective: objective(kind)}
		l.Met = !over && p99 <= l.Objective
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Latency) int { return strings.Compare(a.Kind, b.Kind) })
	return out
}

// Usage is what one kind of program takes on all hosts together.
type Usage struct {
	Program   string  `json:"program"`
	Processes int     `json:"processes"`
	MemoryMiB float64 `json:"memoryMiB"`
	// Cores is how many cores it kept busy.
	Cores float64 `json:"cores"`
}

// processes reads `ps -eo comm=,rss=,cputimes=`: KiB of memory and seconds of CPU.
func processes(text string) (map[string]Usage, error) {
	out := map[string]Usage{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		var rss, cpu float64
		n := len(fields)
		if _, err := fmt.Sscan(fields[n-2]+" "+fields[n-1], &rss, &cpu); err != nil {
			return nil, fmt.Errorf("reading the processes: %q: %w", line, err)
		}
		name := strings.Join(fields[:n-2], " ")
		u := out[name]
		u.Program, u.Processes, u.MemoryMiB, u.Cores = name, u.Processes+1, u.MemoryMiB+rss/1024, u.Cores+cpu
		out[name] = u
	}
	return out, nil
}

// components are the programs that are reported: what a cluster's control plane and its load balancers are made of, and what simulates nodes. The
// kernel keeps 15 characters of a name.
var components = []string{"kube-apiserver", "etcd", "kube-controller", "kube-scheduler", "haproxy", "keepalived", "kubelet", "containerd", "coredns", "flanneld", "kube-proxy", "kwok"}

// usage is what the components take: memory at the end, and CPU in between.
func usage(before, after map[string]map[string]Usage, seconds float64) (out []Usage) {
	for _, name := range components {
		u := Usage{Program: name}
		for host, programs := range after {
			p, ok := programs[name]
			if !ok {
				continue
			}
			u.Processes += p.Processes
			u.MemoryMiB += p.MemoryMiB
			u.Cores += max(0, p.Cores-before[host][name].Cores)
		}
		if u.Processes > 0 {
			u.Cores /= seconds
			out = append(out, u)
		}
	}
	return out
}
