// Package certs shows all certificates of a cluster: what each is, when it expires, who renews it, and what restarts for that.
package certs

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
)

// Report is all certificates of a cluster at one moment. Its JSON keys are stable.
type Report struct {
	Cluster string    `json:"cluster"`
	Time    time.Time `json:"time"`
	// Certificates are those on hosts, the first to expire first.
	Certificates []Certificate `json:"certificates"`
	// Webhooks are those of what API servers call: admission and conversion webhooks, aggregated APIs, and the servers of an existing etcd.
	Webhooks []Webhook `json:"webhooks"`
	// Unknown says of hosts, and of "webhooks", why their certificates could not be read.
	Unknown map[string]string `json:"unknown"`
	// OfflineKeys are the authorities whose private key is on no host that could be asked.
	OfflineKeys []string `json:"offlineKeys"`
	// Rotations are those that are in progress.
	Rotations []Rotation `json:"rotations"`
}

// Rotation is the replacement of an authority, or of the service account key.
type Rotation struct {
	// Authority is its name as of `quorate certs rotate`.
	Authority facts.Authority `json:"authority"`
	// Stage is the one that is not finished: trust, sign, or drop; empty if the files of the hosts are not those of a rotation.
	Stage cluster.RotationStage `json:"stage,omitempty"`
	// Progress says in words how far it is.
	Progress string `json:"progress"`
}

// Certificate is one certificate on one host.
type Certificate struct {
	Host string `json:"host"`
	// Name is the path below /etc/kubernetes, or kubelet-client, kubelet-server, or quorate-approver. File is where it is.
	Name string `json:"name"`
	File string `json:"file"`
	// Issuer is the common name of the authority, and CA says that it is an authority's own.
	Issuer  string    `json:"issuer"`
	CA      bool      `json:"ca"`
	Begins  time.Time `json:"begins"`
	Expires time.Time `json:"expires"`
	// DaysLeft is negative when it has expired.
	DaysLeft int `json:"daysLeft"`
	// RenewedBy says who renews it: quorate, kubelet, approver, etcd-hosts, or owner.
	RenewedBy cluster.Renewer `json:"renewedBy"`
	// Due says that the next `quorate apply` renews it. It does so for an authority only if that has expired.
	Due bool `json:"due"`
	// Restarts are the programs that restart when it is renewed. All others read it again.
	Restarts []string `json:"restarts"`
	// Outdated are those of them that still use the former certificate.
	Outdated []string `json:"outdated,omitempty"`
	// KeyMissing says that the private key of its authority is not on the host, so it cannot be renewed there. An authority is renewed on any
	// host that has the key.
	KeyMissing bool `json:"keyMissing,omitempty"`
	// foreign says that the authority is that of an etcd of the user's own, and away that the host is in maintenance, and gets a valid one when
	// that ends.
	foreign, away bool
}

// Webhook is what API servers call, with the days that its certificates are valid.
type Webhook struct {
	facts.WebhookCertificates
	// DaysLeft is for the first of its certificates to expire; nil if it has none that could be read.
	DaysLeft *int `json:"daysLeft,omitempty"`
}

// Of describes the certificates of a state. Why says why webhooks could not be read.
func Of(s *cluster.State, webhooks []facts.WebhookCertificates, why error) Report {
	out := Report{Cluster: s.Spec.Metadata.Name, Time: s.Seen.Time, Certificates: []Certificate{}, Webhooks: []Webhook{}, Unknown: s.Unreachable(), OfflineKeys: []string{}, Rotations: []Rotation{}}
	if why != nil {
		out.Unknown["webhooks"] = why.Error()
	}
	offline := map[string]bool{}
	for _, c := range s.Certificates() {
		x := Certificate{Host: c.Host, Name: c.Name, File: c.File(), Issuer: c.Issuer, CA: c.CA, Begins: c.Begins, Expires: c.Expires, DaysLeft: days(c.Expires, s.Seen.Time),
			RenewedBy: s.Renewer(c), Restarts: append([]string{}, c.Programs()...), foreign: c.Name == facts.EtcdCA && s.Spec.ExistingEtcd()}
		for _, p := range s.Outdated(c.Host) {
			if slices.Contains(x.Restarts, p) {
				x.Outdated = append(x.Outdated, p)
			}
		}
		if x.RenewedBy == cluster.ByQuorate {
			x.Due, x.KeyMissing = s.Due(c.Host, c.Certificate), !s.HasAuthorityKey(c.Host, c.Signer())
			if _, known := offline[c.Signer()]; !known || !x.KeyMissing {
				offline[c.Signer()] = x.KeyMissing
			}
		}
		if c.CA && s.Expired(c.Certificate) && x.rotates() != "" {
			x.Due = s.RenewsAuthority(c.Name)
			x.KeyMissing = !x.Due
		}
		if s.RenewedOnReturn(c) {
			x.Due, x.away = false, true
		}
		out.Certificates = append(out.Certificates, x)
	}
	for _, authority := range slices.Sorted(maps.Keys(offline)) {
		if offline[authority] {
			out.OfflineKeys = append(out.OfflineKeys, authority)
		}
	}
	for _, r := range s.Rotations() {
		x := Rotation{Authority: r.Authority, Progress: r.Progress()}
		if r.Unclear == "" {
			x.Stage = r.Stage()
		}
		out.Rotations = append(out.Rotations, x)
	}
	for _, w := range webhooks {
		x := Webhook{WebhookCertificates: w}
		all := slices.Clone(w.Bundle)
		if w.Serving != nil {
			all = append(all, *w.Serving)
		}
		for _, c := range all {
			if left := days(c.Expires, s.Seen.Time); x.DaysLeft == nil || left < *x.DaysLeft {
				x.DaysLeft = &left
			}
		}
		out.Webhooks = append(out.Webhooks, x)
	}
	return out
}

// days are whole days; what expired a moment ago has -1 left.
func days(t, now time.Time) int {
	left := t.Sub(now)
	if left < 0 {
		return int(left.Hours()/24) - 1
	}
	return int(left.Hours() / 24)
}

// row is one line of the table: certificates that differ only in their hosts share it.
type row struct{ name, expires, issuer, renewal string }

// Text writes the report for people.
func Text(w io.Writer, r Report) error {
	var rows []row
	hosts := map[row][]string{}
	for _, c := range r.Certificates {
		x := row{name: c.Name, expires: cluster.Expiry(c.Expires, r.Time), issuer: cmp.Or(c.Issuer, "–"), renewal: c.renewal()}
		if c.CA {
			x.name += " (authority)"
		}
		if hosts[x] == nil {
			rows = append(rows, x)
		}
		hosts[x] = append(hosts[x], c.Host)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CERTIFICATE\tHOSTS\tEXPIRY\tISSUER\tRENEWED BY")
	for _, x := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", x.name, strings.Join(hosts[x], ", "), x.expires, x.issuer, x.renewal)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(r.Webhooks) > 0 {
		fmt.Fprintln(w)
		fmt.Fprintln(table, "CALLED BY API SERVERS\tSERVER\tEXPIRY\tSTATE")
		for _, x := range r.Webhooks {
			fmt.Fprintf(table, "%s %s\t%s\t%s\t%s\n", x.Kind, x.Name+after("/", x.Part), x.Server, x.expiry(r.Time), cmp.Or(x.Problem, after("unknown: ", x.WebhookCertificates.Unknown), "valid"))
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	var notes []string
	for _, x := range r.Rotations {
		if x.Stage == "" {
			notes = append(notes, fmt.Sprintf("The rotation of %s is not finished, and its stage is unclear: %s.", x.Authority.Title(), x.Progress))
			continue
		}
		notes = append(notes, fmt.Sprintf("The rotation of %s is in its stage %q: %s. `quorate certs rotate %s` goes on with it.", x.Authority.Title(), x.Stage, x.Progress, x.Authority))
	}
	for _, a := range r.OfflineKeys {
		notes = append(notes, fmt.Sprintf("The private key of %s is on no host that could be asked. What it signs is renewed with the key that you keep elsewhere: docs/certificates.md, \"An offline CA\".", a))
	}
	for _, c := range r.Certificates {
		if len(c.Outdated) > 0 {
			notes = append(notes, fmt.Sprintf("%s on %s still uses the former %s. `quorate apply` restarts it.", cluster.List(c.Outdated), c.Host, c.Name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unknown)) {
		notes = append(notes, fmt.Sprintf("The certificates of %s are unknown: %s", name, r.Unknown[name]))
	}
	if len(notes) > 0 {
		_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
		return err
	}
	return nil
}

// rotates is the authority that has the certificate, and that Quorate can replace; empty for any other one.
func (c Certificate) rotates() facts.Authority {
	i := slices.IndexFunc(facts.Authorities, func(a facts.Authority) bool { return c.Name == a.Certificate() })
	if i < 0 || c.foreign {
		return ""
	}
	return facts.Authorities[i]
}

// renewal is who renews a certificate, in words.
func (c Certificate) renewal() string {
	if c.away {
		return "quorate, when the maintenance of the host ends"
	}
	if a := c.rotates(); a != "" {
		switch {
		case c.KeyMissing:
			return "you: it has expired, and its key is on no host"
		case c.Due:
			return "quorate: it has expired"
		}
		return "you: `quorate certs rotate " + string(a) + "`"
	}
	switch c.RenewedBy {
	case cluster.ByKubelet:
		return "the kubelet"
	case cluster.ByApprover:
		return "the approver"
	case cluster.ByEtcdHosts:
		return "quorate, on the etcd hosts"
	case cluster.ByOwner:
		return "you"
	}
	switch {
	case c.KeyMissing:
		return "you: its authority's key is not on the host"
	case len(c.Restarts) > 0:
		return "quorate; restarts " + cluster.List(c.Restarts)
	}
	return "quorate"
}

func (w Webhook) expiry(now time.Time) string {
	if w.DaysLeft == nil {
		return "–"
	}
	var parts []string
	if w.Serving != nil {
		parts = append(parts, "the server's "+cluster.Expiry(w.Serving.Expires, now))
	}
	for _, c := range w.Bundle {
		parts = append(parts, "its authority "+cluster.Expiry(c.Expires, now))
	}
	return strings.Join(parts, ", ")
}

func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}
