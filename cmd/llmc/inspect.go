package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"llmc/eval"
	"llmc/formats"
	"llmc/model"
)

func newInspectCommand(global *globalOptions) *cobra.Command {
	var tensors, sparsity bool
	cmd := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Show what is in a checkpoint: architecture, tensors, types, sizes, tokenizer",
		Long: `Shows what is in a checkpoint. Only headers and configuration are read, so it
takes no longer and no more memory for a hundred gigabytes than for one.`,
		Example: `  llmc inspect model/
  llmc inspect model.gguf --tensors
  llmc inspect demo --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), global.ui, args[0], tensors, sparsity)
		},
	}
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list every tensor")
	cmd.Flags().BoolVar(&sparsity, "sparsity", false, "read all weights: the share of zeros of every matrix, and whether 2:4 and 4:8 hold")
	return cmd
}

func runInspect(ctx context.Context, ui *ui, path string, tensors, sparsity bool) error {
	c, err := openModel(path)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := model.Open(c)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	info := inspect(path, c, w, tensors)
	if sparsity {
		if info.Sparsity, err = readSparsity(ctx, ui, w); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := ui.document(info); err != nil {
		return err
	}
	if err := info.print(ui); err != nil || !sparsity {
		return err
	}
	return printSparsity(ui, info.Sparsity)
}

// inspection is the document of "llmc inspect --json".
type inspection struct {
	Path          string  `json:"path"`
	Format        string  `json:"format"`
	Architecture  string  `json:"architecture"`
	Class         string  `json:"class,omitempty"`
	Parameters    int64   `json:"parameters"`
	SizeBytes     int64   `json:"size_bytes"`
	BitsPerWeight float64 `json:"bits_per_weight"`
	Scheme        string  `json:"scheme"`

	Context       int  `json:"context"`
	SlidingWindow int  `json:"sliding_window,omitempty"`
	Vocabulary    int  `json:"vocabulary"`
	Blocks        int  `json:"blocks"`
	Hidden        int  `json:"hidden"`
	FeedForward   int  `json:"feed_forward"`
	Heads         int  `json:"heads"`
	KVHeads       int  `json:"kv_heads"`
	HeadDim       int  `json:"head_dim"`
	Tied          bool `json:"tied_embeddings"`

	Mixture *mixtureInfo `json:"mixture,omitempty"`

	Tokenizer   string `json:"tokenizer,omitempty"`
	TensorCount int    `json:"tensor_count"`

	Types   []typeCount  `json:"types"`
	Roles   []roleCount  `json:"roles"`
	Tensors []tensorInfo `json:"tensors,omitempty"`
	Unused  []string     `json:"unused,omitempty"` // tensors that the model does not use

	Sparsity []sparsityInfo `json:"sparsity,omitempty"` // with --sparsity
}

// mixtureInfo is what the blocks of a mixture of experts are made of.
type mixtureInfo struct {
	Experts          int   `json:"experts"`      // of each block
	Used             int   `json:"experts_used"` // by each token
	FeedForward      int   `json:"expert_feed_forward"`
	Shared           int   `json:"shared_expert_feed_forward,omitempty"` // of the expert that every token goes through
	ActiveParameters int64 `json:"active_parameters"`
}

// typeCount is what is stored in one number format.
type typeCount struct {
	Type      string `json:"type"`
	Tensors   int    `json:"tensors"`
	SizeBytes int64  `json:"size_bytes"`
}

// roleCount is what is stored of one role: in all blocks, biases included.
type roleCount struct {
	Role       string `json:"role"`
	Tensors    int    `json:"tensors"`
	Shape      []int  `json:"shape"` // of the first one, as the model uses it
	Types      string `json:"types"`
	Parameters int64  `json:"parameters"`
	SizeBytes  int64  `json:"size_bytes"`
}

// tensorInfo is one tensor as it is stored.
type tensorInfo struct {
	Name      string `json:"name"`
	Role      string `json:"role,omitempty"`
	Block     *int   `json:"block,omitempty"`
	Expert    *int   `json:"expert,omitempty"` // absent where a tensor holds all of a block
	Type      string `json:"type"`
	Shape     []int  `json:"shape"`
	SizeBytes int64  `json:"size_bytes"`
}

func inspect(path string, c *formats.Checkpoint, w *model.Weights, tensors bool) *inspection {
	cfg := &w.Config
	s := eval.Summarize(c, w)
	info := &inspection{
		Path: path, Format: "safetensors", Architecture: s.Architecture, Class: cfg.Architecture,
		Parameters: s.Parameters, SizeBytes: s.SizeBytes, BitsPerWeight: s.BitsPerWeight(), Scheme: s.Scheme,
		Context: cfg.Context, SlidingWindow: cfg.Window, Vocabulary: cfg.Vocab, Blocks: cfg.Blocks,
		Hidden: cfg.Hidden, FeedForward: cfg.FFN, Heads: cfg.Heads, KVHeads: cfg.KVHeads, HeadDim: cfg.HeadDim,
		Tied: cfg.Tied, Tokenizer: tokenizerKind(c), Unused: w.Extra,
	}
	if c.Kind == formats.GGUF {
		info.Format = "gguf"
	}
	if x := cfg.Experts; x.Count > 0 {
		info.Mixture = &mixtureInfo{x.Count, x.Used, x.Width, x.Shared, cfg.ActiveParameters()}
	}
	info.countTypes(c)
	owners := info.countRoles(w)
	if !tensors {
		return info
	}
	for _, t := range c.Tensors() {
		ti := tensorInfo{Name: t.Name, Type: t.Type.String(), Shape: t.Shape, SizeBytes: int64(len(t.Data))}
		if id, ok := owners[t.Name]; ok {
			ti.Role = id.Role.String()
			if id.Block >= 0 {
				ti.Block = &id.Block
			}
			if e := id.Expert.Index(); e >= 0 && len(t.Shape) == 2 {
				ti.Expert = &e
			}
		}
		info.Tensors = append(info.Tensors, ti)
	}
	return info
}

func (info *inspection) countTypes(c *formats.Checkpoint) {
	for _, t := range c.Tensors() {
		info.TensorCount++
		i := slices.IndexFunc(info.Types, func(n typeCount) bool { return n.Type == t.Type.String() })
		if i < 0 {
			i = len(info.Types)
			info.Types = append(info.Types, typeCount{Type: t.Type.String()})
		}
		info.Types[i].Tensors++
		info.Types[i].SizeBytes += int64(len(t.Data))
	}
	slices.SortStableFunc(info.Types, func(a, b typeCount) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) })
}

// countRoles fills Roles and returns which tensor of the model every stored
// tensor belongs to.
func (info *inspection) countRoles(w *model.Weights) map[string]model.ID {
	owners := map[string]model.ID{}
	at := map[string]int{}
	for _, id := range w.Config.IDs() {
		role := roleName(id)
		i, ok := at[role]
		if !ok {
			i = len(info.Roles)
			at[role] = i
			info.Roles = append(info.Roles, roleCount{Role: role, Shape: w.Config.Shape(id)})
		}
		r := &info.Roles[i]
		parameters := int64(1)
		for _, d := range w.Config.Shape(id) {
			parameters *= int64(d)
		}
		r.Parameters += parameters
		parts := w.Stored(id)
		for _, name := range sortedKeys(parts) {
			t := parts[name]
			if _, stack := owners[t.Name]; !stack {
				owners[t.Name] = id
				r.Tensors++
			}
			r.SizeBytes += int64(len(t.Data))
			if !slices.Contains(strings.Split(r.Types, "+"), t.Type.String()) {
				r.Types = strings.TrimPrefix(r.Types+"+"+t.Type.String(), "+")
			}
		}
	}
	return owners
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// tokenizerKind names the tokenizer without building it: "gpt2 (llama-bpe)" of
// a GGUF file, the model type of a tokenizer.json. "" when there is none.
func tokenizerKind(c *formats.Checkpoint) string {
	if c.Kind == formats.GGUF {
		kind, _ := c.Meta.String("tokenizer.ggml.model")
		if pre, ok := c.Meta.String("tokenizer.ggml.pre"); ok {
			kind += parenthesized(pre)
		}
		return kind
	}
	data, err := c.Companion("tokenizer.json")
	if err != nil {
		return ""
	}
	return jsonModelType(data)
}

// jsonModelType finds model.type of a tokenizer.json, which comes before the
// vocabulary: megabytes need not be parsed.
func jsonModelType(data []byte) string {
	dec := json.NewDecoder(bytes.NewReader(data))
	inModel := false
	if _, err := dec.Token(); err != nil {
		return ""
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return ""
		}
		switch {
		case !inModel && key == "model":
			if open, err := dec.Token(); err != nil || open != json.Delim('{') {
				return ""
			}
			inModel = true
		case inModel && key == "type":
			kind, _ := dec.Token()
			name, _ := kind.(string)
			return name
		default:
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return ""
			}
		}
	}
	return ""
}

func (info *inspection) print(ui *ui) error {
	line := func(label, format string, args ...any) { ui.print("%-13s %s", label, fmt.Sprintf(format, args...)) }
	line("model", "%s", info.Path)
	class := ""
	if info.Class != "" {
		class = " (" + info.Class + ")"
	}
	line("architecture", "%s%s, %d blocks, hidden %d, feed-forward %d", info.Architecture, class, info.Blocks, info.Hidden, info.FeedForward)
	if x := info.Mixture; x != nil {
		line("mixture", "%d experts of %d, %d used%s", x.Experts, x.FeedForward, x.Used, sharedString(x.Shared))
	}
	line("attention", "%d heads of %d, %d for keys and values%s", info.Heads, info.HeadDim, info.KVHeads, windowString(info.SlidingWindow))
	line("context", "%d tokens", info.Context)
	tied := "head of its own"
	if info.Tied {
		tied = "head tied to the embeddings"
	}
	line("vocabulary", "%d tokens, %s", info.Vocabulary, tied)
	if info.Tokenizer == "" {
		line("tokenizer", "none")
	} else {
		line("tokenizer", "%s", info.Tokenizer)
	}
	active := ""
	if info.Mixture != nil {
		active = fmt.Sprintf(", %s active", countString(info.Mixture.ActiveParameters))
	}
	line("parameters", "%s%s", countString(info.Parameters), active)
	line("storage", "%s, %s, %s, %.2f bits a weight", info.Format, info.Scheme, bytesString(info.SizeBytes), info.BitsPerWeight)
	var types []string
	for _, t := range info.Types {
		types = append(types, fmt.Sprintf("%d %s (%s)", t.Tensors, t.Type, bytesString(t.SizeBytes)))
	}
	line("tensors", "%d: %s", info.TensorCount, strings.Join(types, ", "))
	if len(info.Unused) > 0 {
		line("not used", "%s", shortList(info.Unused, 3))
	}
	ui.print("")
	if info.Tensors != nil {
		return info.printTensors(ui)
	}
	var rows [][]string
	for _, r := range info.Roles {
		rows = append(rows, []string{r.Role, fmt.Sprint(r.Tensors), shapeString(r.Shape), r.Types, countString(r.Parameters), bytesString(r.SizeBytes)})
	}
	return ui.table([]string{"role", "tensors", "shape", "types", "parameters", "size"}, rows, 0, 3)
}

func (info *inspection) printTensors(ui *ui) error {
	var rows [][]string
	for _, t := range info.Tensors {
		role := t.Role
		if t.Expert != nil {
			role = fmt.Sprintf("expert %d %s", *t.Expert, role)
		}
		if t.Block != nil {
			role = fmt.Sprintf("block %d %s", *t.Block, role)
		}
		rows = append(rows, []string{t.Name, role, t.Type, shapeString(t.Shape), bytesString(t.SizeBytes)})
	}
	return ui.table([]string{"tensor", "role", "type", "shape", "size"}, rows, 0, 1, 2)
}

// roleName tells the linears of experts from those that all tokens go through.
func roleName(id model.ID) string {
	if id.Expert != model.NoExpert {
		return "experts " + id.Role.String()
	}
	return id.Role.String()
}

func sharedString(width int) string {
	if width == 0 {
		return ""
	}
	return fmt.Sprintf(", one of %d for every token", width)
}

func windowString(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", sliding window %d", n)
}

// shapeString writes a shape as people do: 256x768.
func shapeString(shape []int) string {
	parts := make([]string, len(shape))
	for i, d := range shape {
		parts[i] = fmt.Sprint(d)
	}
	return strings.Join(parts, "x")
}

// shortList names the first few of a list.
func shortList(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
