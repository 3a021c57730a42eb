"""A standing adversary: random command lines on damaged files, each case a function of its seed.

python -m tests.fuzz --minutes 30 --seed 1     as long as one likes
python -m tests.fuzz --seed 1 --case 17        one case again, with what it said
"""
