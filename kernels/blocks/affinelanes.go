package blocks

// quantizeLanes is quantizeRow with the searches of several sub-blocks side by
// side.
func (k *affineK) quantizeLanes(dst []byte, src, importance []float32) {
	b := newBatch(k.sub)
	defer b.free()
	perBlock := superBlock / k.sub
	for at := 0; at < len(src); at += batchSubs * k.sub {
		x := src[at:min(at+batchSubs*k.sub, len(src))]
		b.load(&b.x, x)
		k.weigh(b, x, part(importance, at))
		search := &k.plain
		if importance != nil {
			search = &k.weighted
		}
		b.affine(search)
		for first := 0; len(x) > 0; first += perBlock {
			k.finish(b, dst, x[:superBlock], first, importance != nil)
			x, dst = x[superBlock:], dst[k.size:]
		}
	}
}

// weigh sets the weights of the values of a batch.
func (k *affineK) weigh(b *batch, x, importance []float32) {
	vectors := b.sub * batchSubs / b.n
	if importance == nil && !k.rootMean {
		b.magnitudes(&b.w[0], &b.x[0], vectors)
		return
	}
	if importance == nil {
		for at := 0; at < batchSubs*b.sub; at += b.n * b.sub {
			b.spread(&b.w[at], &b.x[at], b.sub, float32(b.sub))
		}
		return
	}
	b.load(&b.importance, importance[:len(x)])
	for at := 0; at < len(x); at += superBlock {
		sigma2 := k.sigma2(x[at:][:superBlock], importance)
		for j := range superBlock / k.sub {
			b.sigma2[at/k.sub+j] = sigma2
		}
	}
	b.weighed()
}

// finish writes the super-block whose sub-blocks begin with number first.
func (k *affineK) finish(b *batch, block []byte, x []float32, first int, weighted bool) {
	a, n := &b.affineBlock, superBlock/k.sub
	copy(a.scales[:n], b.scales[first:])
	copy(a.mins[:n], b.mins[first:])
	copy(a.sumW[:n], b.sumW[first:])
	k.store(a, block, weighted)
	for j := range n {
		b.gridScales[j], b.gridMins[j] = k.grid(block, j)
	}
	b.requantize(&a.codes[0], &x[0], &b.gridScales[0], &b.gridMins[0], n, b.sub/b.n, magic, magic+float32(k.plain.top))
	b.keepCodes(a.codes[:], first, n)
	k.put(block, a.codes[:])
}
