#!/bin/bash
# Made what lies here, started in the root of a checkout of 89dc988, the commit before modules moved to `lssvwm`.
# HERE: this folder. OLDER: a checkout of a54218d, the last one that wrote episodes as .npz.
set -e
export OMP_NUM_THREADS=1
world=(--preset smoke --no-progress --size 16 --max-episode-steps 20 --num-envs 2 --no-processes
  --model.patch 8 --model.latent-channels 6 --model.dim 8 --model.layers 1 --model.heads 1 --model.features 2
  --model.state-size 2 --model.expand 1 --model.head-dim 8 --model.reward-horizon 1
  --training.batch 2 --training.length 8 --training.fit-frames 64 --training.save-seconds 0.01
  --heads.steps 20 --heads.kept 100 --heads.observed 200 --collect-episodes 4 --world-steps 40)
policy=(--rounds 2 --dreams 20 --dreamer.rows 4 --dreamer.horizon 3 --dreamer.context 2 --dreamer.hidden 4
  --dreamer.layers 1 --eval-episodes 2)

rm -rf runs
python train_wm.py "${world[@]}" --out runs/world

# Interrupted in the second round, in the middle of training the world model.
python train_agent.py "${world[@]}" "${policy[@]}" --out runs/agent &
until [ runs/agent/world_model/training.pt -nt runs/agent/stages/1-collect.json ] &&
  [ -e runs/agent/stages/1-collect.json ]; do sleep 0.002; done
kill -INT $!
wait $! || true

# What can be made again, and is large.
rm -r runs/*/tensorboard runs/agent/{report,best} runs/world/world_model/training.pt runs/agent/world_model/contexts.npz

cp -r runs/agent runs/ended
python train_agent.py --out runs/ended --resume --no-progress
(cd "$OLDER" && PYTHONPATH=. python "$HERE/older.py" "$OLDPWD/runs/older")
PYTHONPATH=. python "$HERE/expected.py" "$HERE"
tar -C runs -cJf "$HERE/runs.tar.xz" agent world older
