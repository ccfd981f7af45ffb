package page

import (
	"bytes"
	"html/template"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0 s": 0, "0.4 ms": 420 * time.Microsecond, "4.2 ms": 4210 * time.Microsecond, "10 ms": 9960 * time.Microsecond, "42 ms": 42 * time.Millisecond,
		"0.10 s": 99600 * time.Microsecond, "0.28 s": 283 * time.Millisecond, "0.99 s": 994 * time.Millisecond, "1.0 s": 996 * time.Millisecond,
		"1.4 s": 1440 * time.Millisecond, "9.9 s": 9940 * time.Millisecond, "10 s": 9960 * time.Millisecond, "12 s": 12300 * time.Millisecond,
		"123 s": 123 * time.Second, "999 s": 999 * time.Second, "16.7 min": 1000 * time.Second, "120 min": 2 * time.Hour, "20.0 h": 20 * time.Hour,
	} {
		if got := Duration(d); got != want {
			t.Errorf("%s is %q, not %q", d, got, want)
		}
	}
	if got := Milliseconds(283.4); got != "0.28 s" {
		t.Error(got)
	}
}

func TestCount(t *testing.T) {
	for want, n := range map[string]int{"0": 0, "999": 999, "1,000": 1000, "12,480": 12480, "1,234,567": 1234567, "-1,000": -1000} {
		if got := Count(n); got != want {
			t.Errorf("%d is %q, not %q", n, got, want)
		}
	}
}

func TestCode(t *testing.T) {
	for text, want := range map[string]string{
		"run `a <b>` now": "run <code>a &lt;b&gt;</code> now",
		"one ` alone":     "one ` alone",
	} {
		if got := string(Code(text)); got != want {
			t.Errorf("%q is %q, not %q", text, got, want)
		}
	}
}

// The hash is that of the example in the specification of content security policies.
func TestPolicy(t *testing.T) {
	if got := Policy(); strings.Contains(got, "script-src") {
		t.Error(got)
	}
	got := Policy("<p>alert(1)</p>", "<SCRIPT>alert('Hello, world.');</SCRIPT><script></script>")
	if want := "; script-src 'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"; !strings.HasSuffix(got, want) {
		t.Errorf("%s does not end with %s", got, want)
	}
}

func TestLivePolicy(t *testing.T) {
	got := LivePolicy("<style>alert('Hello, world.');</style><script>alert('Hello, world.');</script>")
	const hash = "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
	for _, want := range []string{"default-src 'none'; connect-src 'self'; ", "; frame-ancestors 'none'; style-src " + hash + "; script-src " + hash} {
		if !strings.Contains(got, want) {
			t.Errorf("%s does not contain %s", got, want)
		}
	}
	if strings.Contains(got, "unsafe") {
		t.Error(got)
	}
}

func TestNew(t *testing.T) {
	var out bytes.Buffer
	if err := New("x", "<style>\n{{style}}\n</style><p>{{code .}} {{more}}</p>", template.FuncMap{"more": func() string { return "<" }}).Execute(&out, "`x`"); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasPrefix(got, "<style>\n:root {") || !strings.HasSuffix(got, "}\n</style><p><code>x</code> &lt;</p>") {
		t.Error(got)
	}
}
