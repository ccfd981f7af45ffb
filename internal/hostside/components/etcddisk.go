package components

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/facts"
)

// fsyncs begins the names of what etcd's metrics say of its disk.
const fsyncs = "etcd_disk_wal_fsync_duration_seconds_"

// maxMetrics is more than the metrics of a member ever are.
const maxMetrics = 8 << 20

// etcdSpeed is how fast the disk of the member on this host is, and its network to the others, by its metrics; nil if it does not tell.
func etcdSpeed(ctx context.Context, url string) (*facts.EtcdDisk, map[string]float64) {
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
	metrics, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	if err != nil {
		return nil, nil
	}
	return readEtcdDisk(bytes.NewReader(metrics)), readRoundTrips(bytes.NewReader(metrics))
}

// roundTrips begins the names of what etcd's metrics say of its network. It probes each other member every half minute.
const roundTrips = "etcd_network_peer_round_trip_time_seconds_"

// readRoundTrips reads how long they take on average, by the IDs of the members that they lead to.
func readRoundTrips(from io.Reader) map[string]float64 {
	sums, counts := map[string]float64{}, map[string]float64{}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line, found := strings.CutPrefix(lines.Text(), roundTrips)
		if !found {
			continue
		}
		name, text, _ := strings.Cut(line, " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil
		}
		if member, is := strings.CutPrefix(name, `sum{To="`); is {
			sums[strings.TrimSuffix(member, `"}`)] = value
		}
		if member, is := strings.CutPrefix(name, `count{To="`); is {
			counts[strings.TrimSuffix(member, `"}`)] = value
		}
	}
	var out map[string]float64
	for member, n := range counts {
		if sum, has := sums[member]; has && n > 0 {
			if out == nil {
				out = map[string]float64{}
			}
			out[member] = sum / n
		}
	}
	return out
}

// readEtcdDisk reads it from metrics in Prometheus' text format; nil if a part is missing or cannot be read.
func readEtcdDisk(from io.Reader) *facts.EtcdDisk {
	var out facts.EtcdDisk
	var sum, count bool
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line, found := strings.CutPrefix(lines.Text(), fsyncs)
		if !found {
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		var err error
		switch bound, isBucket := strings.CutPrefix(name, `bucket{le="`); {
		case name == "sum":
			out.Seconds, err = strconv.ParseFloat(value, 64)
			sum = true
		case name == "count":
			out.Writes, err = strconv.ParseUint(value, 10, 64)
			count = true
		case isBucket && bound != `+Inf"}`: // that one is the count
			var w facts.EtcdDiskWithin
			if w.Seconds, err = strconv.ParseFloat(strings.TrimSuffix(bound, `"}`), 64); err == nil {
				w.Writes, err = strconv.ParseUint(value, 10, 64)
			}
			out.Within = append(out.Within, w)
		}
		if err != nil {
			return nil
		}
	}
	if lines.Err() != nil || !sum || !count || len(out.Within) == 0 {
		return nil
	}
	slices.SortFunc(out.Within, func(a, b facts.EtcdDiskWithin) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return &out
}
