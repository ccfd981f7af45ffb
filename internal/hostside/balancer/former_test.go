package balancer

import (
	"slices"
	"testing"
)

func TestFormerWorkers(t *testing.T) {
	const text = `#<PID>          <type>          <reloads>       <uptime>        <version>      
93              master          2 [failed: 0]   0d00h01m28s     2.6.12-1+deb12u4
# workers
299             worker          0               0d00h00m02s     2.6.12-1+deb12u4
# old workers
102             worker          2               0d00h01m28s     2.6.12-1+deb12u4
201             worker          1               0d00h00m30s     2.6.12-1+deb12u4
# programs
77              dataplane       0               0d00h01m28s     -

`
	if got, want := formerWorkers(text), []string{"102", "201"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := formerWorkers("#<PID> <type>\n93 master 0\n# workers\n299 worker 0\n# programs\n"); len(got) > 0 {
		t.Errorf("%q, and there was no reload", got)
	}
}
