package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/version"
)

// MaxSilence is how long a snapshot counts of which its unit does not say that it still holds. The unit may have ended, and another one may lead.
const MaxSilence = time.Minute

// Snapshot is what a control plane exposes until the next one. The zero value is that of one that does not lead.
type Snapshot struct {
	// Leads says that this control plane observes the cluster.
	Leads bool `json:"leads"`
	// At is when it was observed; zero if it does not lead.
	At time.Time `json:"at,omitzero"`
	// Metrics are those of the observation, in Prometheus' text format.
	Metrics string `json:"metrics,omitempty"`
}

// Observed is the snapshot of an observation of the cluster of that name. With an error, something is missing in it. The state is not used after
// it returns.
func Observed(name string, s *cluster.State) (Snapshot, error) {
	b := &batch{cluster: name}
	b.state(s)
	all, err := b.gather()
	var text bytes.Buffer
	for _, f := range all {
		_, werr := expfmt.MetricFamilyToText(&text, f)
		err = errors.Join(err, werr)
	}
	if err != nil {
		err = fmt.Errorf("rendering metrics: %w", err)
	}
	return Snapshot{Leads: true, At: s.Seen.Time, Metrics: text.String()}, err
}

// Exposed is what is served of the last snapshot of a cluster. It implements prometheus.Gatherer, and observes nothing.
type Exposed struct {
	Cluster string
	// Now decides when a snapshot is too old.
	Now func() time.Time
	// Last returns the last snapshot, and when its unit last said that it holds; an error if there is none.
	Last func() (s Snapshot, said time.Time, err error)
}

// Gather implements prometheus.Gatherer. Of a snapshot that is old, only the times are exposed: what was true then may not be true now.
func (e Exposed) Gather() ([]*dto.MetricFamily, error) {
	b := &batch{cluster: e.Cluster}
	release, _ := version.Read()
	b.put(buildInfo, 1, release)
	s, last, err := e.Last()
	now := e.Now()
	holds := err == nil && within(now.Sub(last), MaxSilence)
	b.put(leads, bit(holds && s.Leads))
	if err == nil {
		b.put(said, max(0, now.Sub(last)).Seconds())
		if !s.At.IsZero() {
			b.put(observed, seconds(s.At))
		}
	}
	out, err := b.gather()
	if err != nil || !holds || !within(now.Sub(s.At), MaxAge) {
		return out, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(s.Metrics))
	if err != nil {
		return out, fmt.Errorf("reading the metrics of the last observation: %w", err)
	}
	for _, f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// within says that something is not older than that. What is from the future was written by another clock, or before this one was set back.
func within(age, limit time.Duration) bool { return age <= limit && age >= -limit }

// Describe implements prometheus.Collector.
func (b *batch) Describe(out chan<- *prometheus.Desc) {
	for _, f := range families {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (b *batch) Collect(out chan<- prometheus.Metric) {
	for _, m := range b.out {
		out <- m
	}
}

// gather returns what was put. With an error, what is wrong is missing.
func (b *batch) gather() ([]*dto.MetricFamily, error) {
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(b); err != nil {
		return nil, err
	}
	return r.Gather()
}
