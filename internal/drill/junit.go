package drill

import (
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The elements of JUnit's format, as far as CI systems read them.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		Timestamp  string          `xml:"timestamp,attr,omitempty"`
		Time       string          `xml:"time,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Errors     int             `xml:"errors,attr"`
		Skipped    int             `xml:"skipped,attr"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitProblem `xml:"failure"`
		Error   *junitProblem `xml:"error"`
		Skipped *junitProblem `xml:"skipped"`
		Out     string        `xml:"system-out,omitempty"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report for CI systems, in JUnit's format: one suite, with a case for each injected fault, and one for the ledger. A
// fault that missed its objective is a failure, one that could not be judged is an error, and one that was not injected is skipped. A
// drill that ended early has a case of its own, which is an error.
func (r *Report) WriteJUnit(w io.Writer) error {
	suite := junitSuite{Name: "drill of " + r.Cluster, Time: junitSeconds(r.Ended.Sub(r.Began)), Properties: []junitProperty{
		{"quorate", r.Quorate}, {"kubernetes", r.Kubernetes}, {"seed", strconv.FormatUint(r.Seed, 10)}, {"lab", strconv.FormatBool(r.Environment.Lab)},
		{"processors", strconv.Itoa(r.Environment.Processors)}, {"failoverProfile", r.Environment.Profile}, {"etcdTopology", r.Environment.Topology}}}
	if !r.Began.IsZero() {
		suite.Timestamp = r.Began.UTC().Format("2006-01-02T15:04:05") // JUnit's schema has no time zone
	}
	class := "drill." + r.Cluster
	seen, repeats := map[string]int{}, map[string]int{}
	for _, o := range r.Faults {
		repeats[o.Name]++
	}
	for _, o := range r.Faults {
		seen[o.Name]++
		c := junitCase{Name: o.Name, Class: class, Time: junitSeconds(o.lasted()), Out: o.figures()}
		if n := repeats[o.Name]; n > 1 {
			c.Name += fmt.Sprintf(" (%d of %d)", seen[o.Name], n)
		}
		switch {
		case len(o.Invalid) > 0:
			c.Error = junitProblemOf(append(slices.Clone(o.Invalid), o.Missed...))
		case !o.Pass:
			c.Failure = junitProblemOf(o.Missed)
		}
		suite.Cases = append(suite.Cases, c)
	}
	ledger := junitCase{Name: "ledger", Class: class, Time: junitSeconds(0), Out: strings.Join(r.ledgerSentences(), "\n")}
	switch wrong, unknown := r.ledgerProblems(); {
	case len(wrong) > 0:
		ledger.Failure = junitProblemOf(wrong)
	case len(unknown) > 0:
		ledger.Error = junitProblemOf(unknown)
	}
	suite.Cases = append(suite.Cases, ledger)
	switch {
	case r.Interrupted != "":
		suite.Cases = append(suite.Cases, junitCase{Name: "complete", Class: class, Time: junitSeconds(0), Error: junitProblemOf([]string{"the drill ended early: " + r.Interrupted})})
	case len(r.Faults) == 0:
		suite.Cases = append(suite.Cases, junitCase{Name: "complete", Class: class, Time: junitSeconds(0), Error: junitProblemOf([]string{"no fault was injected"})})
	}
	for _, s := range r.Skipped {
		c := junitCase{Name: s.Name, Class: class, Time: junitSeconds(0), Skipped: &junitProblem{Message: s.Why}}
		if s.Target != "" {
			c.Name += " on " + s.Target
		}
		suite.Cases = append(suite.Cases, c)
	}
	for _, c := range suite.Cases {
		suite.Tests++
		switch {
		case c.Failure != nil:
			suite.Failures++
		case c.Error != nil:
			suite.Errors++
		case c.Skipped != nil:
			suite.Skipped++
		}
	}
	data, err := xml.MarshalIndent(junitSuites{Suites: []junitSuite{suite}}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	_, err = io.WriteString(w, xml.Header+string(data)+"\n")
	return err
}

// junitProblemOf has the first of the reasons as its message, which is all that some systems show.
func junitProblemOf(reasons []string) *junitProblem {
	p := &junitProblem{Text: strings.Join(reasons, "\n")}
	if len(reasons) > 0 {
		p.Message = reasons[0]
	}
	return p
}

func junitSeconds(d time.Duration) string {
	return strconv.FormatFloat(max(d, 0).Seconds(), 'f', 3, 64)
}

// lasted is the time from the injection until the margins were back, as far as that is known.
func (o Outcome) lasted() time.Duration {
	d := o.Healed.Sub(o.Injected)
	if o.MarginsBackMs != nil {
		d += time.Duration(*o.MarginsBackMs) * time.Millisecond
	}
	return d
}

// figures are what was measured, for a log.
func (o Outcome) figures() string {
	var b strings.Builder
	target := o.Target
	if len(o.Roles) > 0 {
		target += " (" + strings.Join(o.Roles, ", ") + ")"
	}
	fmt.Fprintf(&b, "on %s, at %s\n", target, o.Injected.UTC().Format(time.RFC3339))
	for _, kind := range sortedKinds(slices.Collect(maps.Keys(o.Clients))) {
		c := o.Clients[kind]
		fmt.Fprintf(&b, "%s: longest gap %s, %d of %d requests failed, %d seconds of disruption\n", kind, exactly(c.GapMs), c.Failed, c.Requests, c.DisruptionSeconds)
	}
	if o.DetectMs != nil {
		fmt.Fprintf(&b, "detected after %s\n", exactly(*o.DetectMs))
	}
	if o.MarginsBackMs != nil {
		fmt.Fprintf(&b, "margins back after %s\n", exactly(*o.MarginsBackMs))
	}
	return strings.TrimSuffix(b.String(), "\n")
}
