package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

var updateSchema = flag.Bool("update-schema", false, "write schema.json anew")

// generateSchema makes the schema of the types, their doc comments and their choices.
func generateSchema(t *testing.T) []byte {
	t.Helper()
	r := &jsonschema.Reflector{}
	if err := r.AddGoComments("quorate.dev/quorate/internal/spec", "./"); err != nil {
		t.Fatal(err)
	}
	for key, comment := range r.CommentMap {
		r.CommentMap[key] = strings.Join(strings.Fields(comment), " ")
	}
	s := r.Reflect(&Cluster{})
	s.ID = "https://quorate.dev/schema/v1alpha1/cluster.json"
	s.Title = "Quorate cluster"
	property := func(field string) *jsonschema.Schema {
		typ, name, _ := strings.Cut(field, ".")
		p, ok := s.Definitions[typ].Properties.Get(name)
		if !ok {
			t.Fatalf("choices has %s, the types have not", field)
		}
		return p
	}
	for field, values := range choices {
		p := property(field)
		if p.Items != nil {
			p.MinItems, p.UniqueItems = new(uint64(1)), true
			p = p.Items
		}
		for _, v := range values {
			p.Enum = append(p.Enum, v)
		}
	}
	c := DefaultLab(DefaultName)
	for field, value := range map[string]any{
		"ControlPlane.topology":  c.Spec.ControlPlane.Topology,
		"ControlPlane.placement": c.Spec.ControlPlane.Placement,
		"LoadBalancer.type":      c.Spec.LoadBalancer.Type,
		"Network.cni":            c.Spec.Network.CNI,
		"Network.policies":       c.Spec.Network.Policies,
		"Network.podCIDR":        c.Spec.Network.PodCIDR,
		"Network.serviceCIDR":    c.Spec.Network.ServiceCIDR,
		"Components.source":      c.Spec.Components.Source,
		"Failover.profile":       c.Spec.Failover.Profile,
		"SSH.user":               c.Spec.Hosts[0].SSH.User,
		"SSH.port":               c.Spec.Hosts[0].SSH.Port,
	} {
		property(field).Default = value
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

func TestSchemaIsUpToDate(t *testing.T) {
	want := generateSchema(t)
	if *updateSchema {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(Schema(), want) {
		t.Error("schema.json is not that of the types; run `go generate ./internal/spec`")
	}
}

// The schema must be as strict as the decoder: an editor that follows it underlines the same slips.
func TestSchemaAgreesWithParse(t *testing.T) {
	doc, err := validator.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := validator.NewCompiler()
	if err := compiler.AddResource("cluster.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("cluster.json")
	if err != nil {
		t.Fatal(err)
	}
	good := string(mustInit(t, InitOptions{}))
	for name, tc := range map[string]struct {
		data string
		ok   bool
	}{
		"good":              {good, true},
		"unknown field":     {strings.Replace(good, "endpoint:", "endpont:", 1), false},
		"unknown host role": {strings.Replace(good, "[worker]", "[worka]", 1), false},
		"no roles":          {strings.Replace(good, "[worker]", "[]", 1), false},
		"number for string": {strings.Replace(good, "zone: a}", "zone: 1}", 1), false},
		"wrong kind":        {strings.Replace(good, "kind: Cluster", "kind: Custer", 1), false},
		"wrong placement":   {strings.Replace(good, "placement: regional", "placement: global", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			var v any
			if err := yaml.Load([]byte(tc.data), &v); err != nil {
				t.Fatal(err)
			}
			bySchema := compiled.Validate(v)
			_, byCheck := Check([]byte(tc.data), "", Options{Lab: true})
			if (bySchema == nil) != tc.ok || (byCheck == nil) != tc.ok {
				t.Errorf("want ok %t; schema says %v; Check says %v", tc.ok, bySchema, byCheck)
			}
		})
	}
}

func mustInit(t *testing.T, o InitOptions) []byte {
	t.Helper()
	data, err := Init(o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
