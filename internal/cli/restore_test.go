package cli

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// TestWhereDataAre: on a host of the spec, or on this machine.
func TestWhereDataAre(t *testing.T) {
	c := spec.DefaultLab("prod")
	host, here := c.Spec.Hosts[0].Name, t.TempDir()
	for text, tc := range map[string]struct {
		want run.DataSource
		err  string
	}{
		"":                     {},
		host + ":/mnt/etcd/":   {want: run.DataSource{Host: host, Dir: "/mnt/etcd"}},
		here:                   {want: run.DataSource{Dir: here}},
		host + ":mnt":          {err: "absolute path"},
		"nobody:/mnt/etcd":     {err: "nobody is not a host of prod"},
		here + "/none":         {err: "no such directory on this machine"},
		here + "/a:/mnt/other": {err: "no such directory on this machine"},
	} {
		got, err := dataSource(c, "--from-data", text)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) || got != tc.want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if got, err := dataSource(c, "--keys", host); err == nil {
		t.Errorf("a host without a directory: %+v", got)
	}
}
