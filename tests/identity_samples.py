"""Algorithms in other bases, modulo primes and after flips, for the tests of identity and symmetries."""

from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import strassen
from stlsearch.constructions.transforms import sandwich
from stlsearch.exact import ExactMatrix, modulus_of
from stlsearch.identity.modular import inverse, primes, ranks
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.targets import Target


def modulo(algorithm, p):
    return BilinearAlgorithm.from_exact(algorithm.target, *(factor.real % p for factor in algorithm.exact), ring=f"Z{p}")


def shipped(name):
    return Registry(None, shipped_folder()).get(name).algorithm


def flipped(algorithm, rng, tries):
    """Flips u(x)v(x)w + u(x)v'(x)w' = u(x)(v+v')(x)w + u(x)v'(x)(w'-w) at random: other algorithms of the same rank."""
    factors = [factor.real.copy() for factor in algorithm.exact]
    p = modulus_of(algorithm.ring)
    for _ in range(tries):
        mode, (i, j) = rng.integers(3), rng.permutation(algorithm.rank)[:2]
        if np.array_equal(factors[mode][i], factors[mode][j]):
            a, b = [(mode + 1) % 3, (mode + 2) % 3][:: rng.choice([1, -1])]
            x, y = factors[a][i] + factors[a][j], factors[b][j] - factors[b][i]
            x, y = (x % p, y % p) if p else (x, y)
            if x.any() and y.any():
                factors[a][i], factors[b][j] = x, y
    return BilinearAlgorithm.from_exact(algorithm.target, *factors, ring=algorithm.ring)


def disguised(algorithm, seed, size=3):
    """Another basis, another order, other scalings; over Zp too."""
    rng = np.random.default_rng(seed)
    n, m, p = algorithm.target.shape
    prime = modulus_of(algorithm.ring)
    order = rng.permutation(algorithm.rank)
    bases = []
    for extent in (n, m, p):
        basis = rng.integers(-size, size + 1, (extent, extent))
        while int(ranks(basis[None], prime or next(primes()))[0]) < extent:
            basis = rng.integers(-size, size + 1, (extent, extent))
        bases.append(basis)
    if prime is None:
        turned = sandwich(algorithm, *(basis.tolist() for basis in bases))
        scales = [Fraction(int(a), int(b)) for a, b in zip(*rng.integers(1, 6, (2, algorithm.rank)), strict=True)]
        factors = [factor.take(order) for factor in turned.exact]
        rows = [
            [Fraction(int(value), factors[0].denominator) * scale for value in row]
            for row, scale in zip(factors[0].real, scales, strict=True)
        ]
        back = [
            [Fraction(int(value), factors[2].denominator) / scale for value in row]
            for row, scale in zip(factors[2].real, scales, strict=True)
        ]
        return BilinearAlgorithm.from_exact(algorithm.target, rows, factors[1], back)
    x, y, z = bases
    u, v, w = (factor.real.reshape(-1, *shape) for factor, shape in zip(algorithm.exact, ((n, m), (m, p), (n, p)), strict=True))
    u, v = x @ u @ inverse(y, prime) % prime, y @ v @ inverse(z, prime) % prime
    w = (z @ w.transpose(0, 2, 1) @ inverse(x, prime) % prime).transpose(0, 2, 1)
    a = rng.integers(1, prime, (algorithm.rank, 1, 1))
    b = np.array([pow(int(value), -1, prime) for value in a.ravel()]).reshape(a.shape)
    factors = (factor.reshape(algorithm.rank, -1)[order] % prime for factor in (u * a, v, w * b))
    return BilinearAlgorithm.from_exact(algorithm.target, *factors, ring=algorithm.ring)


def complex_product():
    """<2,2,2;7> over Q(i): Strassen's algorithm in a complex basis."""
    x = ExactMatrix.make([[1, 0], [0, 1]], 1, [[0, 1], [0, 0]])
    back = ExactMatrix.make([[1, 0], [0, 1]], 1, [[0, 0], [-1, 0]])  # X^-T for X = [[1, i], [0, 1]]
    eye = ExactMatrix.make([[1, 0], [0, 1]])
    U, V, W = strassen().exact
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), U @ x.kron(eye), V, W @ back.kron(eye))
