package components

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
)

const metricsOfEtcd = `# HELP etcd_disk_wal_fsync_duration_seconds The latency distributions of fsync called by WAL.
# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.002"} 11
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} 3
etcd_disk_wal_fsync_duration_seconds_bucket{le="8.192"} 12
etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} 13
etcd_disk_wal_fsync_duration_seconds_sum 9.0625
etcd_disk_wal_fsync_duration_seconds_count 13
# TYPE etcd_network_peer_round_trip_time_seconds histogram
etcd_network_peer_round_trip_time_seconds_bucket{To="8211f1d0f64f3269",le="0.0001"} 1
etcd_network_peer_round_trip_time_seconds_bucket{To="8211f1d0f64f3269",le="0.0002"} 3
etcd_network_peer_round_trip_time_seconds_bucket{To="8211f1d0f64f3269",le="+Inf"} 4
etcd_network_peer_round_trip_time_seconds_sum{To="8211f1d0f64f3269"} 0.006
etcd_network_peer_round_trip_time_seconds_count{To="8211f1d0f64f3269"} 4
etcd_network_peer_round_trip_time_seconds_sum{To="91bc3c398fb3c146"} 0
etcd_network_peer_round_trip_time_seconds_count{To="91bc3c398fb3c146"} 0
# TYPE etcd_disk_wal_write_bytes_total gauge
etcd_disk_wal_write_bytes_total 1.2e+06
`

func TestEtcdDisk(t *testing.T) {
	answer, code := metricsOfEtcd, http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, answer)
	}))
	defer server.Close()
	want := &facts.Durations{Count: 13, Seconds: 9.0625, Within: []facts.Within{{Seconds: 0.001, Count: 3}, {Seconds: 0.002, Count: 11}, {Seconds: 8.192, Count: 12}}}
	if got, trips := etcdSpeed(t.Context(), server.URL); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(trips, map[string]facts.Durations{"8211f1d0f64f3269": {Count: 4, Seconds: 0.006, Within: []facts.Within{{Seconds: 0.0001, Count: 1}, {Seconds: 0.0002, Count: 3}}}}) {
		t.Errorf("%+v, %v", got, trips)
	}
	for name, text := range map[string]string{
		"another etcd": "", "half of it": metricsOfEtcd[:strings.Index(metricsOfEtcd, "_sum")], "no numbers": strings.ReplaceAll(metricsOfEtcd, " 13", " x"),
	} {
		answer = text
		if got, _ := etcdSpeed(t.Context(), server.URL); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	answer, code = metricsOfEtcd, http.StatusServiceUnavailable
	if got, _ := etcdSpeed(t.Context(), server.URL); got != nil {
		t.Errorf("an error: %+v", got)
	}
	server.Close()
	if got, _ := etcdSpeed(t.Context(), server.URL); got != nil {
		t.Errorf("nobody listens: %+v", got)
	}
}
