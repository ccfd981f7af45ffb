package spec

import (
	"regexp"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Defaults of a Prometheus that is installed.
const (
	DefaultRetention = "15d"
	DefaultStorage   = "10Gi"
)

func (p *Prometheus) fill() {
	if p.Install {
		fill(&p.Retention, DefaultRetention)
		fill(&p.Storage, DefaultStorage)
	}
}

// retention is a duration as Prometheus writes it. Of its units, only those are allowed that are long enough for a retention, and no number that is
// too large for Prometheus, which does not start with more than 292 years.
var retention = regexp.MustCompile(`^([1-9][0-9]{0,4}[hd]|[1-9][0-9]{0,3}w|[1-9][0-9]?y)$`)

// leastStorage is enough for the samples of the last two hours of a small cluster, which Prometheus never deletes.
var leastStorage = resource.MustParse("1Gi")

// monitoring checks the Prometheus that runs in the cluster.
func (k *checker) monitoring() {
	const path = "spec.monitoring.prometheus"
	p := k.c.Spec.Monitoring.Prometheus
	if p.Retention != "" && !retention.MatchString(p.Retention) {
		k.refuse(path+".retention", "write it like `12h`, `15d`, or `8w`", "`%s` is not a time for which Prometheus can keep samples", p.Retention)
	}
	if p.Storage != "" {
		if q, err := resource.ParseQuantity(p.Storage); err != nil || q.Cmp(leastStorage) < 0 {
			k.refuse(path+".storage", "write at least `1Gi`", "Prometheus cannot work with `%s` of storage", p.Storage)
		}
	}
	if s := p.AlertmanagerSecret; s != "" && len(validation.IsDNS1123Subdomain(s)) > 0 {
		k.refuse(path+".alertmanagerSecret", "write only its name; it is in the namespace quorate-monitoring", "`%s` is not the name of a Secret", s)
	}
	if !p.Install {
		return
	}
	const at = path + ".install"
	if !k.c.Spec.Monitoring.Exporter {
		k.refuse(at, "also set `exporter: true` in spec.monitoring", "the alert rules are about the metrics of the cluster, and spec.monitoring.exporter does not expose them")
	}
	if k.c.Published() {
		k.refuse(at, "set `source: modules` in spec.components, or use a bundle that `quorate bundle build --monitoring` made; or leave it out, and use your own Prometheus (`quorate monitoring scrape`)",
			"what the source `%s` downloads does not contain Prometheus", k.c.Spec.Components.Source)
	}
	if n := len(k.c.WorkloadHosts()); n < 2 && k.sound("spec.hosts") && k.sound("spec.nodePools") {
		k.refuse(at, "add workers, or use a Prometheus that runs elsewhere (`quorate monitoring scrape`)", "the two servers run on different nodes that take workloads, and the cluster has %d", n)
	}
}
