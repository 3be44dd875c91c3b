package formats

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"llmc/formats/raw"
)

// Digest tells checkpoints apart by everything in them: tensors, configuration,
// metadata and companions, wherever they lie. Two with the same digest give the
// same results. It reads all weights; progress may be nil and is told bytes.
func (c *Checkpoint) Digest(ctx context.Context, progress func(done, total int64)) (string, error) {
	sum := sha256.New()
	field := func(name string, data []byte) {
		fmt.Fprintf(sum, "%q %d ", name, len(data))
		sum.Write(data)
	}
	field("kind", []byte(c.Kind.String()))
	field("config", c.Config)
	if c.Meta != nil {
		for _, key := range c.Meta.Keys() {
			value, _ := c.Meta.Get(key)
			field(key, fmt.Appendf(nil, "%T %v", value, value))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Metadata)) {
		field(key, []byte(c.Metadata[key]))
	}
	for _, name := range c.Companions() {
		data, err := c.Companion(name)
		if err != nil {
			return "", err
		}
		field(name, data)
	}
	var done, total int64
	for _, t := range c.tensors {
		total += int64(len(t.Data))
	}
	for _, t := range c.tensors {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		// A checksum that processors compute is enough against chance.
		check := crc32.Checksum(t.Data, crc32.MakeTable(crc32.Castagnoli))
		raw.Release(t.Data)
		field(t.Name, fmt.Appendf(nil, "%s %v %d %08x", t.Type, t.Shape, len(t.Data), check))
		if done += int64(len(t.Data)); progress != nil {
			progress(done, total)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:16]), nil
}
