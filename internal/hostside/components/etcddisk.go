package components

import (
	"cmp"
	"context"
	"io"
	"math"
	"net/http"
	"slices"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"quorate.dev/quorate/internal/facts"
)

// What etcd's metrics say of the disk of a member, and of its network.
const (
	fsyncs = "etcd_disk_wal_fsync_duration_seconds"
	// roundTrips are those to each other member. etcd probes it every few seconds, and counts the average of the last probes every half minute.
	roundTrips = "etcd_network_peer_round_trip_time_seconds"
)

// maxMetrics is more than the metrics of a member ever are.
const maxMetrics = 8 << 20

// etcdSpeed is how fast the disk of the member on this host is, and its network to the others, by the IDs of these, as its metrics say; nil if they do not.
func etcdSpeed(ctx context.Context, url string) (*facts.Durations, map[string]facts.Durations) {
	transport := &http.Transport{DisableKeepAlives: true} // without a proxy
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(resp.Body, maxMetrics))
	if err != nil {
		return nil, nil
	}
	var disk *facts.Durations
	for _, m := range families[fsyncs].GetMetric() {
		if h := m.GetHistogram(); h != nil {
			all := durations(h)
			disk = &all
		}
	}
	var trips map[string]facts.Durations
	for _, m := range families[roundTrips].GetMetric() {
		for _, label := range m.GetLabel() {
			if h := m.GetHistogram(); h.GetSampleCount() > 0 && label.GetName() == "To" {
				if trips == nil {
					trips = map[string]facts.Durations{}
				}
				trips[label.GetValue()] = durations(h)
			}
		}
	}
	return disk, trips
}

func durations(h *dto.Histogram) facts.Durations {
	out := facts.Durations{Count: h.GetSampleCount(), Seconds: h.GetSampleSum()}
	for _, b := range h.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) { // that one is the count
			out.Within = append(out.Within, facts.Within{Seconds: b.GetUpperBound(), Count: b.GetCumulativeCount()})
		}
	}
	slices.SortFunc(out.Within, func(a, b facts.Within) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return out
}
