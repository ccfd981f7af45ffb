package cli

import (
	"strings"
	"testing"
	"time"
)

func TestFlagsOfDrills(t *testing.T) {
	good := drillFlags{repeat: 1, lasts: 10 * time.Second, abort: time.Minute, pace: 50 * time.Millisecond}
	for name, tc := range map[string]struct {
		change func(*drillFlags)
		want   string // part of the error; empty if it is valid
	}{
		"the default":            {func(*drillFlags) {}, ""},
		"beyond the margins":     {func(f *drillFlags) { f.beyond, f.only = true, []string{"stop/haproxy/on=lb-a"} }, ""},
		"of everything":          {func(f *drillFlags) { f.beyond = true }, "needs --only"},
		"of a list":              {func(f *drillFlags) { f.beyond, f.list, f.only = true, true, []string{"*"} }, "cannot be combined"},
		"longer than it watches": {func(f *drillFlags) { f.beyond, f.only, f.lasts = true, []string{"*"}, time.Minute }, "longer than --lasts"},
		"no repeat":              {func(f *drillFlags) { f.repeat = 0 }, "--repeat"},
		"too short":              {func(f *drillFlags) { f.lasts = time.Millisecond }, "--lasts"},
	} {
		f := good
		tc.change(&f)
		err := f.check("text")
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
