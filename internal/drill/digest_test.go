package drill

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestDigest(t *testing.T) {
	began := time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
	client := func(gap int64) map[string]ClientResult {
		return map[string]ClientResult{"endpoint/read/new": {GapMs: gap}, "endpoint/watch/http2": {GapMs: 60_000}, "dns/lookup": {GapMs: 50_000}}
	}
	r := &Report{Cluster: "lab", Began: began, Ended: began.Add(time.Minute), Ledger: Ledger{Acknowledged: 100, Linearizable: "yes"}, Faults: []Outcome{
		{Name: "kill/etcd/leader", Target: "cp-a", Pass: true, Clients: client(280)},
		{Name: "power-off/zone/b", Target: "zone/b", Clients: client(2100), Missed: []string{"too long"}},
		{Name: "hang/haproxy/holder", Target: "lb-a", Clients: client(9000), Invalid: []string{"the computer was too slow"}},
		{Name: "fill/disk/worker", Target: "w-a", Pass: true},
	}}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ParseReport(data)
	if err != nil {
		t.Fatal(err)
	}
	d := read.Digest()
	if d.Word != "FAIL" || d.Class != "bad" || d.Kept != 2 || len(d.Faults) != 4 || !d.Began.Equal(began) || d.Acknowledged != 100 || d.Lost != 0 {
		t.Errorf("%+v", d)
	}
	if longest, found := d.Longest(); !found || longest.Name != "power-off/zone/b" || longest.Outage != 2100*time.Millisecond || longest.Client != "endpoint/read/new" {
		t.Errorf("%+v, %t", longest, found)
	}
	if _, found := (&Report{}).Digest().Longest(); found {
		t.Error("nothing was injected, and there is a longest outage")
	}
	for _, data := range []string{"", "[]", "{}", `{"cluster": "lab"}`} {
		if _, err := ParseReport([]byte(data)); err == nil || !strings.Contains(err.Error(), "no report of a drill") {
			t.Errorf("%q: %v", data, err)
		}
	}
}
