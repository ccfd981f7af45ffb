package flags

import "testing"

func TestParse(t *testing.T) {
	got := Parse([]string{"--a=1", "--b", "2", "--c", "-d=x=y", "word", "--e"})
	for name, want := range map[string]string{"a": "1", "b": "2", "c": "true", "d": "x=y", "e": "true"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if len(got) != 5 {
		t.Errorf("flags %v", got)
	}
}
