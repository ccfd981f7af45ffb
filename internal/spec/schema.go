package spec

import (
	_ "embed"
	"slices"
)

// The schema is generated ahead of time: descriptions come from the doc comments of types.go, which an
// installed binary no longer has.
//
//go:generate go test -run TestSchemaIsUpToDate -update-schema .
//go:embed schema.json
var schema []byte

// Schema returns the JSON schema (draft 2020-12) of the spec, for editors and other tools.
func Schema() []byte { return slices.Clone(schema) }
