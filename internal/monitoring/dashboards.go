package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
)

// DashboardLabel is the label by which Grafana's sidecar finds ConfigMaps with dashboards, with the value "1".
const DashboardLabel = "grafana_dashboard"

// Dashboard is one dashboard for Grafana.
type Dashboard struct {
	// Name is also its uid, and Body what Grafana imports.
	Name string
	Body Object
}

// File is the name of a file with the dashboard.
func (d Dashboard) File() string { return d.Name + ".json" }

// JSON is the dashboard as a file that Grafana imports.
func (d Dashboard) JSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // queries compare
	if err := enc.Encode(d.Body); err != nil {
		return nil, fmt.Errorf("writing the dashboard %s: %w", d.Name, err)
	}
	return b.Bytes(), nil
}

// DashboardsConfigMap are dashboards as one ConfigMap, for Grafana's sidecar.
func DashboardsConfigMap(all []Dashboard, o Options) (Object, error) {
	data := Object{}
	for _, d := range all {
		text, err := d.JSON()
		if err != nil {
			return nil, err
		}
		data[d.File()] = string(text)
	}
	labels := Object{DashboardLabel: "1"}
	meta := o.metadata()
	maps.Copy(labels, meta["labels"].(Object))
	meta["name"], meta["labels"] = name+"-dashboards", labels
	return Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}, nil
}

// Dashboards are all dashboards. They are the same for all clusters: the data source and the cluster are variables.
func Dashboards() []Dashboard {
	return []Dashboard{
		{name + "-overview", dashboard(name+"-overview", "Quorate: overview", "What the cluster survives, what is wrong, and what will be.", overview)},
		{name + "-etcd", dashboard(name+"-etcd", "Quorate: load balancers and etcd", "The load balancers of the API, and the members of etcd.", balancersAndEtcd)},
	}
}

// Units of Grafana.
const (
	count   = "none"
	seconds = "s"
	size    = "bytes"
	share   = "percentunit"
	rate    = "ops"
	moment  = "dateTimeAsIso"
)

// Kinds of panels of Grafana.
const (
	stat     = "stat"
	graph    = "timeseries"
	table    = "table"
	timeline = "state-timeline"
)

// panel is one panel. Queries are by what their series are called; %s in a query is the selector of the cluster.
type panel struct {
	title, description string
	kind, unit         string
	width, height      int
	queries            []query
	// words are the values 0 and 1 in words, and colors are from which value on a color holds; nil is none.
	words  *[2]word
	colors []color
	// none is what is shown if there is no series, and value the name of the column of a table with the value; empty hides it.
	none, value string
}

type query struct{ expr, legend string }

type word struct{ text, color string }

type color struct {
	from  float64 // of the first one, everything below
	color string
}

// section is a row of panels.
type section struct {
	title  string
	panels []panel
}

// selects limits a metric to the cluster that was chosen.
const selects = `{cluster="$cluster"}`

// only is a query for what one metric says, by labels: whichever control plane leads exposes it.
func only(metric, by, legend string) []query {
	if by == "" {
		return []query{{"max(" + metric + selects + ")", legend}}
	}
	return []query{{"max by (" + by + ") (" + metric + selects + ")", legend}}
}

var (
	works  = &[2]word{{"does not work", "red"}, {"works", "green"}}
	answer = &[2]word{{"no", "text"}, {"yes", "blue"}}
	// left are the colors of margins.
	left = []color{{0, "red"}, {0, "orange"}, {1, "green"}}
	zero = []color{{0, "green"}, {1, "red"}}
)

var overview = []section{
	{"Margins", []panel{
		{title: "Failures that the cluster survives", description: "How many more failures of each kind the cluster survives now. -1: it does not work. What cannot be queried counts as failed.",
			kind: stat, unit: count, width: 10, height: 6, queries: only("quorate_margin", "of", "{{of}}"), colors: left, none: "unknown"},
		{title: "Endpoint", description: "Whether the endpoint of the API answers a host.", kind: stat, unit: count, width: 4, height: 6,
			queries: only("quorate_endpoint_up", "", "endpoint"), words: &[2]word{{"does not answer", "red"}, {"answers", "green"}}, none: "unknown"},
		{title: "Last observation", description: "How long ago the cluster was observed. Everything else is as old as that.", kind: stat, unit: seconds, width: 5, height: 6,
			queries: []query{{"time() - max(quorate_observation_timestamp_seconds" + selects + ")", "age"}}, colors: []color{{0, "green"}, {60, "orange"}, {300, "red"}}, none: "nobody observes"},
		{title: "Control planes that lead", description: "How many control planes observe the cluster. It is one, except for seconds while another takes over.", kind: stat, unit: count, width: 5, height: 6,
			queries: []query{{"sum(quorate_exporter_leader" + selects + ")", "leaders"}}, colors: []color{{0, "red"}, {1, "green"}, {2, "orange"}}, none: "cannot be scraped"},
		{title: "Margins over time", description: "The margins now, and those that the spec provides for when everything in it works.", kind: graph, unit: count, width: 12, height: 8,
			queries: append(only("quorate_margin", "of", "{{of}}"), only("quorate_margin_intended", "of", "{{of}}, intended")...)},
		{title: "Everything could be queried", description: "Whether anything is unknown.", kind: timeline, unit: count, width: 4, height: 8,
			queries: only("quorate_observation_complete", "", "complete"), words: &[2]word{{"no", "orange"}, {"yes", "green"}}},
		{title: "Unknown", description: "What could not be queried. It may work. The margins count it as failed.", kind: table, unit: count, width: 8, height: 8,
			queries: only("quorate_unknown", "part, host", ""), none: "nothing"},
	}},
	{"Findings", []panel{
		{title: "What is wrong now", description: "What is known to be wrong, by rule. docs/findings.md says what each rule means.", kind: table, unit: count, width: 12, height: 8,
			queries: []query{{"max by (severity, rule) (quorate_findings" + selects + ") > 0", ""}}, value: "findings", none: "none"},
		{title: "Findings over time", description: "How many things were known to be wrong, by severity.", kind: graph, unit: count, width: 12, height: 8,
			queries: []query{{"sum by (severity) (max by (severity, rule) (quorate_findings" + selects + "))", "{{severity}}"}}},
	}},
	{"Hosts", []panel{
		{title: "Hosts of the spec", description: "The hosts of the spec, their zones, and their roles.", kind: table, unit: count, width: 8, height: 9, queries: only("quorate_host_info", "host, zone, roles", "")},
		{title: "Hosts that can be reached", description: "Whether each host could be reached over SSH. A host that cannot be reached may work.", kind: timeline, unit: count, width: 8, height: 9,
			queries: only("quorate_host_reachable", "host", "{{host}}"), words: &[2]word{{"cannot be reached", "red"}, {"reached", "green"}}},
		{title: "Kubernetes nodes", description: "Whether each node is Ready.", kind: timeline, unit: count, width: 8, height: 9,
			queries: only("quorate_node_ready", "node", "{{node}}"), words: &[2]word{{"not ready", "red"}, {"ready", "green"}}},
		{title: "Programs that do not work", description: "Programs that do not answer as they should, on hosts that can be reached.", kind: table, unit: count, width: 8, height: 6,
			queries: []query{{"max by (host, program) (quorate_program_up" + selects + ") == 0", ""}}, none: "none"},
		{title: "Hosts in maintenance", description: "Hosts that were taken into maintenance. They are not expected to work.", kind: table, unit: count, width: 8, height: 6,
			queries: []query{{"max by (host) (quorate_host_in_maintenance" + selects + ") == 1", ""}}, none: "none"},
		{title: "Hosts with another build of quorate", description: "Hosts of which nothing is known but that they can be reached, because an apply replaces their copy of quorate, or did not finish.", kind: table, unit: count, width: 8, height: 6,
			queries: []query{{"max by (host) (quorate_host_other_build" + selects + ") == 1", ""}}, none: "none"},
	}},
	{"Certificates and backups", []panel{
		{title: "Certificates", description: "How long each certificate is still valid, and who renews it. Some are valid for a week, and are renewed automatically: the finding certificate says what is too late.",
			kind: table, unit: seconds, width: 12, height: 8, queries: []query{{"min by (name, host, renewed_by) (quorate_certificate_expiration_timestamp_seconds" + selects + ") - time()", ""}},
			value: "valid for", colors: []color{{0, "red"}, {0, "text"}}},
		{title: "Age of the last good backup", description: "It should stay below the time between two scheduled backups, and the time that a backup takes.", kind: graph, unit: seconds, width: 12, height: 8,
			queries: append([]query{{"time() - (max(quorate_backup_last_success_timestamp_seconds" + selects + ") > 0)", "age"}}, only("quorate_backup_interval_seconds", "", "interval")...)},
		{title: "Last good backup", description: "The age of the last good backup. What was stored since then is lost if etcd is lost.", kind: stat, unit: seconds, width: 8, height: 5,
			queries: []query{{"time() - (max(quorate_backup_last_success_timestamp_seconds" + selects + ") > 0)", "age"}}, none: "none, or unknown"},
		{title: "Its size", description: "The size of the last good backup.", kind: stat, unit: size, width: 8, height: 5, queries: only("quorate_backup_last_success_size_bytes", "", "size"), none: "none, or unknown"},
		{title: "Hosts whose last backup failed", description: "When hosts made their last attempt, if it failed.", kind: table, unit: moment, width: 8, height: 5,
			queries: []query{{"max by (host) (quorate_backup_last_failure_timestamp_seconds" + selects + ") * 1000", ""}}, value: "at", none: "none"},
	}},
	{"Drills", []panel{
		{title: "Last drill", description: "Whether the last drill as a whole passed. `quorate drill history` prints those before it.", kind: stat, unit: count, width: 4, height: 6,
			queries: only("quorate_drill_last_passed", "", "verdict"), words: &[2]word{{"did not pass", "red"}, {"passed", "green"}}, none: "none, or unknown"},
		{title: "Its age", description: "How long ago the last drill ended.", kind: stat, unit: seconds, width: 4, height: 6,
			queries: []query{{"time() - (max(quorate_drill_last_timestamp_seconds" + selects + ") > 0)", "age"}}, none: "none, or unknown"},
		{title: "Lost writes", description: "How many acknowledged writes were lost in the last drill.", kind: stat, unit: count, width: 4, height: 6,
			queries: only("quorate_drill_last_lost_writes", "", "lost"), colors: zero, none: "none, or unknown"},
		{title: "Faults of the last drill", description: "How often each fault was injected, by verdict: passed, missed its objective, or invalid.", kind: table, unit: count, width: 12, height: 6,
			queries: []query{{"max by (fault, verdict) (quorate_drill_last_faults" + selects + ") > 0", ""}}, value: "times", none: "none, or unknown"},
	}},
	{"Versions", []panel{
		{title: "Cluster", description: "The version in the spec, and whether the cluster is complete.", kind: table, unit: count, width: 8, height: 7,
			queries: only("quorate_cluster_info", "version, stage, topology, placement", "")},
		{title: "Programs", description: "On how many hosts each version of a program runs, which is not always the one that is installed.", kind: table, unit: count, width: 10, height: 7,
			queries: []query{{"count by (program, version) (max by (program, version, host) (quorate_program_info" + selects + "))", ""}}, value: "hosts"},
		{title: "Quorate", description: "How many control planes run each version of Quorate.", kind: table, unit: count, width: 6, height: 7,
			queries: []query{{"count by (version) (quorate_build_info" + selects + ")", ""}}, value: "control planes"},
		{title: "Age of what control planes expose", description: "How long ago the unit that observes said to each exporter what it exposes, or that it still holds. After a minute, the exporter says that it does not lead.", kind: graph, unit: seconds, width: 24, height: 6,
			queries: []query{{"max by (instance) (quorate_exporter_snapshot_age_seconds" + selects + ")", "{{instance}}"}}, colors: []color{{0, "green"}, {60, "red"}}},
	}},
}

var balancersAndEtcd = []section{
	{"Load balancers", []panel{
		{title: "Load balancers that can serve", description: "Whether each load balancer can serve clients.", kind: timeline, unit: count, width: 12, height: 6, queries: only("quorate_load_balancer_up", "host", "{{host}}"), words: works},
		{title: "Virtual IP", description: "Which load balancer has the virtual IP.", kind: timeline, unit: count, width: 12, height: 6, queries: only("quorate_load_balancer_active", "host", "{{host}}"), words: answer},
		{title: "API servers in the load balancers", description: "Whether each load balancer sends clients to each API server. It does not if its check fails, or the server is drained.", kind: timeline, unit: count, width: 12, height: 9,
			queries: only("quorate_load_balancer_server_up", "host, server", "{{server}} through {{host}}"), words: &[2]word{{"no clients", "orange"}, {"clients", "green"}}},
		{title: "Connections", description: "The connections that each API server has through each load balancer.", kind: graph, unit: count, width: 12, height: 9,
			queries: only("quorate_load_balancer_server_sessions", "host, server", "{{server}} through {{host}}")},
	}},
	{"etcd members", []panel{
		{title: "Members", description: "Whether each etcd member works.", kind: timeline, unit: count, width: 8, height: 6, queries: only("quorate_etcd_member_up", "member", "{{member}}"), words: works},
		{title: "Leader", description: "Which member leads.", kind: timeline, unit: count, width: 8, height: 6, queries: only("quorate_etcd_member_leader", "member", "{{member}}"), words: answer},
		{title: "Alarms", description: "Alarms of etcd. With NOSPACE, it refuses every write; with CORRUPT, members have different data.", kind: table, unit: count, width: 8, height: 6,
			queries: only("quorate_etcd_member_alarm", "member, alarm", ""), none: "none"},
		{title: "Leader elections", description: "In how many half minutes of the last quarter of an hour etcd elected a leader. A planned change takes at most one election for each member, or two.", kind: graph, unit: count, width: 24, height: 6,
			queries: []query{{"changes((max(quorate_etcd_member_raft_term" + selects + "))[15m:30s])", "elections"}}},
		{title: "Versions", description: "The ID and the version of each member.", kind: table, unit: count, width: 12, height: 6, queries: only("quorate_etcd_member_info", "member, id, version", "")},
		{title: "Learners", description: "Members that have no vote yet.", kind: table, unit: count, width: 12, height: 6,
			queries: []query{{"max by (member) (quorate_etcd_member_learner" + selects + ") == 1", ""}}, none: "none"},
	}},
	{"etcd data", []panel{
		{title: "Slowest writes to the log", description: "How long the slowest hundredth of the writes of each member to its log takes until it is on the disk, at least. Every write of the API waits for a majority of the members.", kind: graph, unit: seconds, width: 12, height: 8,
			queries: []query{{"histogram_quantile(0.99, sum by (member, le) (rate(quorate_etcd_member_wal_fsync_duration_seconds_bucket" + selects + "[$__rate_interval])))", "{{member}}"}}},
		{title: "Writes to the log", description: "How many writes each member makes to its log in a second.", kind: graph, unit: rate, width: 12, height: 8,
			queries: []query{{"sum by (member) (rate(quorate_etcd_member_wal_fsync_duration_seconds_count" + selects + "[$__rate_interval]))", "{{member}}"}}},
		{title: "Size of the database", description: "The size of each member's database, and the part of it that holds data. Defragmentation frees the rest.", kind: graph, unit: size, width: 12, height: 8,
			queries: append(only("quorate_etcd_member_database_size_bytes", "member", "{{member}}"), only("quorate_etcd_member_database_in_use_bytes", "member", "{{member}}, in use")...)},
		{title: "Share of the quota", description: "The size of each member's database as a part of its quota. At 100 %, etcd refuses every write.", kind: graph, unit: share, width: 6, height: 8,
			queries: []query{{"max by (member) (quorate_etcd_member_database_size_bytes" + selects + ") / max by (member) (quorate_etcd_member_quota_bytes" + selects + ")", "{{member}}"}}},
		{title: "Entries behind the leader", description: "By how many entries of the log each member stays behind the leader, if these are thousands.", kind: graph, unit: count, width: 6, height: 8,
			queries: only("quorate_etcd_member_behind_entries", "member", "{{member}}")},
	}},
}

// source is the data source that the user chose.
var source = Object{"type": "prometheus", "uid": "${datasource}"}

// dashboard lays out sections: each begins with a row, and panels fill lines of 24 columns.
func dashboard(uid, title, description string, sections []section) Object {
	var panels []any
	id, y := 0, 0
	place := func(p Object, x, width, height int) {
		id++
		p["id"], p["gridPos"] = id, Object{"x": x, "y": y, "w": width, "h": height}
		panels = append(panels, p)
	}
	for _, s := range sections {
		place(Object{"type": "row", "title": s.title, "collapsed": false, "panels": []any{}}, 0, columns, 1)
		y++
		x, tallest := 0, 0
		for _, p := range s.panels {
			if x+p.width > columns {
				x, y, tallest = 0, y+tallest, 0
			}
			place(p.object(), x, p.width, p.height)
			x, tallest = x+p.width, max(tallest, p.height)
		}
		y += tallest
	}
	const clusters = "label_values(quorate_exporter_leader, cluster)"
	return Object{
		"uid": uid, "title": title, "description": description, "tags": []any{name}, "schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1,
		"refresh": interval, "timezone": "browser", "time": Object{"from": "now-6h", "to": "now"}, "panels": panels,
		"links": []any{Object{"type": "dashboards", "title": "Quorate", "tags": []any{name}, "asDropdown": false, "includeVars": true, "keepTime": true}},
		"templating": Object{"list": []any{
			Object{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
			Object{"name": "cluster", "label": "Cluster", "type": "query", "datasource": source, "definition": clusters, "query": Object{"query": clusters, "refId": "clusters"}, "refresh": 2, "sort": 1},
		}},
	}
}

// columns are how many Grafana's grid has.
const columns = 24

func (p panel) object() Object {
	var targets []any
	for i, q := range p.queries {
		t := Object{"refId": string(rune('A' + i)), "datasource": source, "expr": q.expr, "legendFormat": q.legend}
		switch p.kind {
		case table:
			t["format"], t["instant"], t["range"] = "table", true, false
		case stat:
			t["instant"], t["range"] = true, false
		default:
			t["range"] = true
		}
		targets = append(targets, t)
	}
	defaults := Object{"unit": p.unit, "color": Object{"mode": "palette-classic"}}
	if p.unit == count {
		defaults["decimals"] = 0
	}
	if p.none != "" {
		defaults["noValue"] = p.none
	}
	if p.words != nil {
		values := Object{}
		for i, w := range p.words {
			values[fmt.Sprint(i)] = Object{"index": i, "text": w.text, "color": w.color}
		}
		defaults["mappings"] = []any{Object{"type": "value", "options": values}}
	}
	steps := []any{Object{"color": "text", "value": nil}}
	if p.colors != nil {
		steps = nil
		for i, c := range p.colors {
			step := Object{"color": c.color, "value": c.from}
			if i == 0 {
				step["value"] = nil
			}
			steps = append(steps, step)
		}
	}
	if p.kind != graph {
		defaults["color"], defaults["thresholds"] = Object{"mode": "thresholds"}, Object{"mode": "absolute", "steps": steps}
	}
	out := Object{"type": p.kind, "title": p.title, "description": p.description, "datasource": source, "interval": interval, "targets": targets, "fieldConfig": Object{"defaults": defaults, "overrides": []any{}}}
	switch p.kind {
	case stat:
		out["options"] = Object{"colorMode": "value", "graphMode": "none", "textMode": "auto", "reduceOptions": Object{"calcs": []any{"lastNotNull"}}}
	case graph:
		defaults["min"] = 0
		if p.unit == count {
			delete(defaults, "min") // a margin may be -1
		}
		out["options"] = Object{"legend": Object{"displayMode": "list", "placement": "bottom", "showLegend": true}, "tooltip": Object{"mode": "multi"}}
	case timeline:
		out["options"] = Object{"mergeValues": true, "showValue": "auto", "legend": Object{"showLegend": false}}
	case table:
		hidden, renamed, options := Object{"Time": true}, Object{}, Object{"showHeader": true}
		if p.value == "" {
			hidden["Value"] = true
		} else {
			renamed["Value"] = p.value
			options["sortBy"] = []any{Object{"displayName": p.value, "desc": p.unit == count}}
			if p.colors != nil {
				defaults["custom"] = Object{"cellOptions": Object{"type": "color-text"}}
			}
		}
		out["options"], out["transformations"] = options, []any{Object{"id": "organize", "options": Object{"excludeByName": hidden, "renameByName": renamed}}}
	}
	return out
}
