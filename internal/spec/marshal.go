package spec

import (
	"fmt"

	"go.yaml.in/yaml/v4"
)

// Marshal writes a spec as YAML that Parse reads back as an equal one.
func Marshal(c *Cluster) ([]byte, error) {
	data, err := yaml.Dump(c)
	if err != nil {
		return nil, fmt.Errorf("writing the spec of %s: %w", c.Metadata.Name, err)
	}
	return data, nil
}
