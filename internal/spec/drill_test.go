package spec

import (
	"strings"
	"testing"
)

func drillSpec(lines ...string) string {
	return strings.Replace(real, "  hosts:\n", "  drill:\n    objectives:\n      - "+strings.Join(lines, "\n      - ")+"\n  hosts:\n", 1)
}

// The same objectives stand in a spec and in a file of their own, and the same is wrong with them.
func TestObjectives(t *testing.T) {
	for name, tc := range map[string]struct {
		lines []string
		want  string // part of the only problem; empty if there is none
	}{
		"a gap":                {lines: []string{"{faults: kill/*, maxGap: 300ms}"}},
		"everything":           {lines: []string{"{faults: '*', clients: 'endpoint/*/new,kubernetes-service', maxGap: 1.2s, maxFailed: 0, maxDisruptionSeconds: 3, maxMarginsBack: 2m}"}},
		"two":                  {lines: []string{"{faults: kill, maxGap: 1s}", "{faults: kill, clients: endpoint, maxGap: 1s}"}},
		"a class":              {lines: []string{"{faults: 'power-off/zone/[ab]', maxFailed: 5}"}},
		"no faults":            {[]string{"{maxGap: 1s}"}, "objectives[0].faults: the objective is for no fault"},
		"no limit":             {[]string{"{faults: kill}"}, "objectives[0]: the objective has no limit"},
		"not a pattern":        {[]string{"{faults: 'kill/[', maxGap: 1s}"}, "objectives[0].faults: `kill/[` is not a pattern"},
		"an empty part":        {[]string{"{faults: 'kill//leader', maxGap: 1s}"}, "objectives[0].faults: `kill//leader` is not a pattern"},
		"an empty pattern":     {[]string{"{faults: 'kill,', maxGap: 1s}"}, "objectives[0].faults: a pattern is empty"},
		"four parts":           {[]string{"{faults: kill/etcd/leader/now, maxGap: 1s}"}, "matches nothing: names have at most 3 parts"},
		"clients":              {[]string{"{faults: kill, clients: 'endpoint/', maxGap: 1s}"}, "objectives[0].clients: `endpoint/` is not a pattern"},
		"twice":                {[]string{"{faults: kill, maxGap: 1s}", "{faults: hang, maxGap: 1s}", "{faults: kill, maxFailed: 1}"}, "objectives[2]: "},
		"no duration":          {[]string{"{faults: kill, maxGap: 300}"}, "objectives[0].maxGap: expected a string, got the number `300`"},
		"no unit":              {[]string{"{faults: kill, maxGap: '300'}"}, "objectives[0].maxGap: `300` is not a duration"},
		"no time":              {[]string{"{faults: kill, maxMarginsBack: 0s}"}, "objectives[0].maxMarginsBack: `0s` is not a duration that can be a limit"},
		"a negative number":    {[]string{"{faults: kill, maxFailed: -1}"}, "objectives[0].maxFailed: -1 is no limit"},
		"a number in quotes":   {[]string{"{faults: kill, maxDisruptionSeconds: '1'}"}, "objectives[0].maxDisruptionSeconds: expected a whole number"},
		"a slip":               {[]string{"{faults: kill, maxGab: 1s}"}, "objectives[0].maxGab: unknown field `maxGab`; did you mean `maxGap`?"},
		"a slip of the number": {[]string{"{faults: kill, maxGap: 1s, maxfail: 1}"}, "objectives[0].maxfail: unknown field `maxfail`; did you mean `maxFailed`?"},
	} {
		c, bySpec := Check([]byte(drillSpec(tc.lines...)), "c.yaml", Options{})
		own, byFile := ParseObjectives([]byte("objectives:\n  - "+strings.Join(tc.lines, "\n  - ")+"\n"), "o.yaml")
		for where, err := range map[string]error{"c.yaml:": bySpec, "o.yaml:": byFile} {
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("%s in %s %v", name, where, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), where) || strings.Count(err.Error(), "\n") > 0):
				t.Errorf("%s in %s %v, want %q", name, where, err, tc.want)
			}
		}
		if tc.want == "" && (len(own) != len(tc.lines) || len(c.Spec.Drill.Objectives) != len(own)) {
			t.Errorf("%s: %v, %v", name, own, c.Spec.Drill.Objectives)
		}
	}
}

// Zero is a limit, and no number is none.
func TestNoFailuresAreALimit(t *testing.T) {
	all, err := ParseObjectives([]byte(`{"objectives": [{"faults": "kill", "maxFailed": 0}, {"faults": "hang", "maxGap": "1s", "maxFailed": null}]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if all[0].MaxFailed == nil || *all[0].MaxFailed != 0 || all[1].MaxFailed != nil {
		t.Errorf("%v, %v", all[0].MaxFailed, all[1].MaxFailed)
	}
	if got := all[0].limits(); got != "maxFailed 0" {
		t.Error(got)
	}
	c := mustParse(t, drillSpec("{faults: kill, maxFailed: 0}"))
	text, err := NewRecord(c).Marshal()
	if err != nil || !strings.Contains(string(text), "maxFailed: 0") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestFilesOfObjectives(t *testing.T) {
	for text, want := range map[string]string{
		"":                 "o.yaml: the file is empty; write `objectives:`",
		"# nothing\n":      "o.yaml: the file is empty",
		"{}":               "o.yaml:1:1: the file has no objectives",
		"objectives: []":   "o.yaml:1:1: the file has no objectives",
		"- faults: kill\n": "o.yaml:1:1: expected a mapping, got a list; its fields are objectives",
		"objectives: kill": "objectives: expected a list",
		"objectivs: []":    "did you mean `objectives`?",
		"hosts: []":        "unknown field `hosts`; the fields here are objectives",
		"a: [":             "this is not YAML",
		"{}\n---\n{}\n":    "put all objectives into one list",
		"apiVersion: v1\n": "unknown field `apiVersion`",
		"objectives:\n  - {faults: kill, maxGap: 1s}\n  - {faults: [kill], maxGap: 1s}\n": "o.yaml:3:14: objectives[1].faults: expected a string, got a list",
	} {
		if _, err := ParseObjectives([]byte(text), "o.yaml"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
