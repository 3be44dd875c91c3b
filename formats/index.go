package formats

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"llmc/formats/internal/jsonscan"
	"llmc/internal/fault"
)

// shardName is how a file that holds a part of the weights is called.
var shardName = regexp.MustCompile(`-\d{5}-of-\d{5}\.safetensors$`)

// openIndex opens all files that the index names and compares what they hold
// with what it says.
func (c *Checkpoint) openIndex(dir folder) error {
	text, err := dir.read(indexName, maxIndex)
	if err != nil {
		return err
	}
	weights, err := parseIndex(text)
	if err != nil {
		return fault.Invalid("%s: %w", dir.path(indexName), err)
	}
	if len(weights) == 0 {
		return fault.Invalid("%s names no tensor", dir.path(indexName))
	}
	seen := map[string]bool{}
	for _, w := range weights {
		seen[w.file] = true
	}
	var shards []string
	for file := range seen {
		shards = append(shards, file)
	}
	slices.Sort(shards)
	var ends []int // of each shard's tensors
	for _, shard := range shards {
		if err := c.openShard(dir, shard); err != nil {
			return err
		}
		ends = append(ends, len(c.tensors))
	}
	return c.checkIndex(dir, weights, shards, ends)
}

// checkIndex reports a tensor that is in two shards, or not in the one that
// the index says.
func (c *Checkpoint) checkIndex(dir folder, weights []weight, shards []string, ends []int) error {
	c.index()
	shardOf := func(tensor int) string { return shards[sort.SearchInts(ends, tensor+1)] }
	for i := 1; i < len(c.byName); i++ {
		a, b := int(c.byName[i-1]), int(c.byName[i])
		if name := c.tensors[a].Name; name == c.tensors[b].Name {
			return fault.Invalid("%s: the tensor %.200q is in %s and in %s", dir.path(indexName), name, shardOf(a), shardOf(b))
		}
	}
	for _, w := range weights {
		at, ok := c.find(w.tensor)
		switch {
		case !ok:
			return fault.Invalid("%s: the tensor %.200q is not in %s", dir.path(indexName), w.tensor, w.file)
		case shardOf(at) != w.file:
			return fault.Invalid("%s: the tensor %.200q is said to be in %s and is in %s", dir.path(indexName), w.tensor, w.file, shardOf(at))
		}
	}
	return nil
}

// weight is a line of the index: which file holds a tensor.
type weight struct{ tensor, file string }

// maxShards is far more than any checkpoint has. It bounds the memory for
// their names.
const maxShards = 10_000

// minWeight is the length of the shortest line of the index.
const minWeight = len(`"":"a.safetensors",`)

// parseIndex reads the weight_map, sorted by tensor, and passes over the rest.
func parseIndex(text []byte) ([]weight, error) {
	s, err := jsonscan.New(text)
	if err != nil {
		return nil, err
	}
	// Set aside at once what is needed at most, which is less than the text.
	weights := make([]weight, 0, min(bytes.Count(text, []byte(".safetensors")), len(text)/minWeight))
	files := map[string]string{} // one copy of each name
	found := false
	err = s.Object(func(key []byte) error {
		if string(key) != "weight_map" {
			return s.Skip()
		}
		if found {
			return fmt.Errorf("the key %q appears twice", key)
		}
		found = true
		return s.Object(func(key []byte) error {
			tensor := string(key)
			file, err := s.Text()
			if err != nil {
				return err
			}
			known, ok := files[string(file)]
			if !ok {
				known = string(file)
				if err := checkShard(known); err != nil {
					return fmt.Errorf("tensor %.200q %w", tensor, err)
				}
				if len(files) == maxShards {
					return fmt.Errorf("there are more than %d files", maxShards)
				}
				files[known] = known
			}
			weights = append(weights, weight{tensor, known})
			return nil
		})
	})
	if err == nil {
		err = s.End()
	}
	if err == nil && !found {
		err = fmt.Errorf("the key %q is missing", "weight_map")
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(weights, func(a, b weight) int { return strings.Compare(a.tensor, b.tensor) })
	for i := 1; i < len(weights); i++ {
		if weights[i].tensor == weights[i-1].tensor {
			return nil, fmt.Errorf("the key %.200q appears twice", weights[i].tensor)
		}
	}
	return weights, nil
}

// checkShard refuses the name of a file that is not beside the index. A shard
// is named by its own extension, so the index cannot name itself.
func checkShard(file string) error {
	switch {
	case strings.ContainsAny(file, `/\:`+"\x00") || file == ".." || file == ".":
		return fmt.Errorf("is said to be in %.200q, which is not a file of the same folder", file)
	case filepath.Ext(file) != ".safetensors":
		return fmt.Errorf("is said to be in %.200q, which is not a .safetensors file", file)
	}
	return nil
}
