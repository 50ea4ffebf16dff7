"""Every command of README, docs and help texts runs, shortened by what is added to it.

A rule says for the commands that match it what is added, which of their words stand
for something, and what they must leave. Each command runs in a shell, in a folder that
has what the command speaks of (`command_place`). No command is without a rule or a
reason for having none, no rule and no reason without a command.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from documented import in_helps, in_pages
from tool_process import environment, free_port, run_here, write_stand_ins

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from command_place import CLASSIFIER, RETINANET, SEGMENTOR, Place

pytestmark = pytest.mark.slow

PAGES = list(dict.fromkeys(command.text for command in in_pages()))
TEXTS = list(dict.fromkeys([*PAGES, *(command.text for command in in_helps())]))


@dataclass(frozen=True)
class Rule:
    """How commands are run.

    Attributes:
        pattern: What the whole command matches.
        more: What is added at its end.
        words: What stands for others, and these.
        makes: Files that it leaves, as patterns; those of `--out` and the like are
            looked for anyway.
        says: What is found in its output.
        serves: Whether it is a server, which is asked once and then interrupted.
        long: Whether it takes so long that it runs with `--long` only, as the
            examples of help texts do.
    """

    pattern: str
    more: str = ''
    words: dict[str, str] = field(default_factory=dict)
    makes: tuple[str, ...] = ()
    says: str = r'\S'
    serves: bool = False
    long: bool = False


def options(*changes: str) -> str:
    return ' '.join(['--cfg-options', *changes])


def pipelines(kind: str, place: int, size: str) -> list[str]:
    return [f'{kind}_dataloader.dataset.pipeline.{place}.scale="{size}"']


SERIAL = [
    f'{kind}_dataloader.{option}'
    for kind in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]
LEAN = [
    'default_hooks.checkpoint.save_optimizer=False',
    'default_hooks.logger.interval=1',
]
TEST_COCO = [*SERIAL[4:], *pipelines('test', 1, '(64,64)')]
COCO = [
    *SERIAL,
    *LEAN,
    *('train_cfg.max_epochs=1', 'train_dataloader.batch_size=1'),
    *pipelines('train', 2, '(64,64)'),
    *pipelines('val', 1, '(64,64)'),
]
FOLDER_SEGMENTS = [
    *SERIAL,
    *LEAN,
    *('train_cfg.max_iters=2', 'train_cfg.val_interval=2'),
    'train_dataloader.batch_size=2',
]
CLASSES = [
    *SERIAL,
    *LEAN,
    *('train_cfg.max_epochs=1', 'train_dataloader.batch_size=2'),
    *(
        f'{kind}_dataloader.dataset.transform.input_size=32'
        for kind in ('train', 'val')
    ),
    *('param_scheduler.t_initial=2', 'param_scheduler.warmup_t=1'),
]
FEW = [*CLASSES, 'model.backbone.num_classes=4']
TEST_FEW = [*SERIAL[4:], 'model.backbone.num_classes=4', 'test_dataloader.batch_size=4']
TINY_DETECTOR = [
    *('model.backbone.arch.depths=[1,1,1,1]', 'model.backbone.arch.dims=[8,16,16,16]'),
    *('model.neck.in_channels=[16,16,16]', 'model.neck.out_channels=16'),
    *('model.bbox_head.in_channels=16', 'model.bbox_head.feat_channels=16'),
    *('model.bbox_head.stacked_convs=1', 'train_cfg.max_epochs=1', *SERIAL[:4]),
]
TINY_CLASSIFIER = [*TINY_DETECTOR[:2], 'train_cfg.max_epochs=1', *SERIAL[:4]]
SCENES = '--train 8 --val 6'
TRAINED = ('curves.png', 'train_log.jsonl', 'val_results.json')
SMALL = {'CONFIG': 'config.py', 'CHECKPOINT': 'checkpoint.pth'}
S12 = {'FILE': 'poolformer_s12.pth.tar'}


def trained(name: str, last: str = 'epoch_1.pth') -> tuple[str, ...]:
    return tuple(f'work_dirs/{name}/{file}' for file in (last, *TRAINED))


RULES = [
    # Training and testing. What starts several processes has its tests in
    # tests/cli/test_dist.py and test_stopping.py; the first here runs always.
    Rule(
        rf'tools/dist_train.sh {RETINANET} 8',
        options(*COCO),
        {' 8': ' 1'},
        trained(Path(RETINANET).stem),
    ),
    Rule(
        rf'tools/dist_train.sh {CLASSIFIER} 8',
        options(*FEW),
        {' 8': ' 2'},
        trained(Path(CLASSIFIER).stem),
        long=True,
    ),
    Rule(
        r'tools/dist_train.sh CONFIG 8( --strategy fsdp)?',
        options('train_cfg.max_epochs=1'),
        {**SMALL, ' 8': ' 2'},
        trained('config'),
        long=True,
    ),
    Rule(
        rf'tools/dist_test.sh {RETINANET} \S+ 8',
        options(*TEST_COCO),
        {' 8': ' 2', 'CHECKPOINT': 'epoch_12.pth'},
        ('work_dirs/*/results_epoch_12.json',),
        long=True,
    ),
    Rule(
        r'tools/dist_test.sh CONFIG CHECKPOINT 8',
        words={**SMALL, ' 8': ' 2'},
        makes=('work_dirs/config/results_checkpoint*.json',),
        long=True,
    ),
    Rule(
        rf'python tools/train.py {RETINANET}( .*)?',
        options(*COCO),
        makes=trained(Path(RETINANET).stem),
    ),
    Rule(
        r'python tools/train.py CONFIG (--log|--cfg-options default_hooks.stop=).*',
        options('train_cfg.max_epochs=1'),
        {**SMALL, 'wandb': 'tensorboard'},
        trained('config'),
    ),
    Rule(
        r'python tools/train.py CONFIG --cfg-options .*checkpoint=.*',
        ' '.join(COCO),
        {'CONFIG': RETINANET},
        trained(Path(RETINANET).stem),
        'poolformer_s12.pth.tar',
    ),
    Rule(
        r'python tools/train.py CONFIG .*init_cfg=None .*',
        ' '.join(COCO),
        {'CONFIG': RETINANET},
        trained(Path(RETINANET).stem),
    ),
    Rule(
        r'(CUDA_VISIBLE_DEVICES=1 )?python tools/train.py CONFIG'
        r'( --resume auto| --size \d+ \d+)?',
        options('train_cfg.max_epochs=1'),
        SMALL,
        trained('config'),
    ),
    Rule(
        r'DATA_ROOT=data/mine python tools/train.py \S+_coco_folder.py',
        options(*COCO),
        makes=trained('retinanet_poolformer_s12_fpn_coco_folder'),
    ),
    Rule(
        r'DATA_ROOT=data/mine python tools/train.py \S+_folder_40k.py',
        f'--size 64 {options(*FOLDER_SEGMENTS)}',
        makes=trained('fpn_poolformer_s12_folder_40k', 'iter_2.pth'),
    ),
    Rule(
        r'DATA_ROOT=data/mine python tools/train.py \S+s12_folder.py',
        options(*CLASSES),
        makes=trained('poolformer_s12_folder'),
    ),
    Rule(
        rf'python tools/test.py {CLASSIFIER} CHECKPOINT',
        options(*TEST_FEW),
        {'CHECKPOINT': 'few.pth'},
        (f'work_dirs/{Path(CLASSIFIER).stem}/results_few.json',),
    ),
    Rule(
        r'python tools/test.py CONFIG (CHECKPOINT.*|found/\S+) --report .*',
        words=SMALL,
        makes=('*/report.html', '*/report.json', '*/per_class.csv', '*/box_errors.png'),
        says='report: ',
    ),
    Rule(
        r'python tools/test.py CONFIG CHECKPOINT.*',
        words=SMALL,
        makes=('work_dirs/config/results_checkpoint*.json',),
    ),
    Rule(
        r'python tools/test.py CONFIG model.onnx',
        words=SMALL,
        makes=('work_dirs/config/results_model.onnx_fp32.json',),
        says='run by ONNX Runtime',
    ),
    Rule(
        r'python tools/test.py CONFIG work_dirs/NAME/epoch_12.pth',
        options(*TEST_COCO),
        {'CONFIG': RETINANET},
        (f'work_dirs/{Path(RETINANET).stem}/results_epoch_12.json',),
    ),
    Rule(
        r'tools/test.py --optimize',
        words={'tools/test.py': 'python tools/test.py config.py checkpoint.pth'},
        makes=('work_dirs/config/results_checkpoint*.json',),
    ),
    Rule(
        r'NNODES=2 NODE_RANK=0 .* tools/dist_train.sh CONFIG 8.*',
        options('train_cfg.max_epochs=1'),
        {**SMALL, ' 8': ' 1', '10.0.0.1': '127.0.0.1'},
        trained('config'),
        long=True,
    ),
    Rule(
        r'GPUS=16 tools/slurm_train.sh .*',
        words=SMALL,
        says=r'--ntasks=16.*train.py", "config.py", "--work-dir", "work_dirs/s12"',
    ),
    Rule(
        r'.*REQUEUE=1 .* tools/slurm_train.sh .*',
        words=SMALL,
        says=r'--requeue.*--time=4:00:00.*\.py", "work_dirs/s\d+"',
    ),
    Rule(
        r'(GPUS=4 )?tools/slurm_test.sh .*',
        words=SMALL,
        says=r'--ntasks=\d.*test.py", "config.py"',
    ),
    # Looking at data.
    Rule(
        r'python tools/make_demo_data.py --out data/demo512 .*',
        f'{SCENES} --size 64 --workers 1',
        makes=('data/demo512/detection/annotations/train.json',),
    ),
    Rule(
        r'python tools/make_demo_data.py.*',
        f'{SCENES} --size 64 --workers 1',
        makes=('data/demo/detection/annotations/train.json',),
        says='made',
    ),
    Rule(r'python tools/check_data.py \S+\.py'),
    Rule(r'python tools/check_data.py CONFIG( --decode)?', words=SMALL),
    Rule(
        r'python tools/check_data.py CONFIG --cfg-options .*mine.json',
        words={
            'python': 'DATA_ROOT=data/mine python',
            'CONFIG': 'configs/detection/retinanet_poolformer_s12_fpn_coco_folder.py',
        },
    ),
    Rule(r'(DATA_ROOT=\S+ )?python tools/browse_data.py .*', words=SMALL),
    # Using models.
    Rule(
        r'python tools/infer.py my_detector/config.py .*',
        words={'my_detector/config.py': 'config.py', 'my_detector': 'checkpoint.pth'},
        makes=('found/predictions.json',),
    ),
    Rule(
        rf'python tools/infer.py ({RETINANET}|CONFIG) .*',
        words=SMALL,
        makes=('found/pictures/*.jpg', 'found/predictions.json', 'found/images.json'),
    ),
    Rule(
        r'python tools/infer.py poolformer_s12 .*',
        makes=('classes/pictures/*.jpg', 'classes/predictions.csv'),
    ),
    Rule(
        r'python tools/demo.py CONFIG.*',
        words={
            'CONFIG:work_dirs/NAME/epoch_12.pth': 'config.py:checkpoint.pth',
            'CONFIG:model.onnx': 'config.py:model.onnx',
            'configs/segmentation/NAME.py': 'segmentation.py',
        },
        serves=True,
        long=True,
    ),
    # tests/cli/test_infer_and_demo.py has what is shorter.
    Rule(r'python tools/demo.py( poolformer_s12| --host .*)?', serves=True, long=True),
    Rule(
        r'python tools/validate.py --model \S+ --checkpoints .*',
        '--img-size 64',
        {'FOLDER': 'weights'},
    ),
    Rule(
        r"python tools/validate.py --model 'poolformer_.*",
        '--img-size 64 --checkpoints weights',
    ),
    Rule(
        r'python tools/validate.py .*data/mine',
        '--img-size 64',
        {'work_dirs/NAME/epoch_300.pth': 'two.pth'},
    ),
    Rule(r'python tools/validate.py .*', '--img-size 64', S12),
    Rule(
        r'python tools/predict.py .* caformer_s18 .*',
        words={'FILE': 'caformer_s18.pth'},
    ),
    Rule(r'python tools/predict.py .*', words=S12),
    Rule(
        r'python tools/gradcam.py \S+ --config .*',
        words={**SMALL, 'FILE': 'checkpoint.pth'},
    ),
    Rule(r'python tools/gradcam.py .*', words=S12),
    Rule(r'python tools/complexity.py all.*', says='caformer_b36', long=True),
    Rule(r'python tools/complexity.py .*', words={**SMALL, 'NAME': 'poolformer_s12'}),
    Rule(
        r'python tools/benchmark.py --tests .*',
        words={'work_dirs/NAME/results_*.json': 'tested/results_*.json'},
        makes=('out.png',),
        says='mIoU',
    ),
    Rule(
        r'python tools/benchmark.py .*--sizes .*',
        '--sizes 64 96 --rounds 1 --no-memory',
    ),
    Rule(
        r'python tools/benchmark.py configs.*',
        '--size 64 --rounds 1 --no-memory',
        long=True,
    ),
    Rule(
        r'python tools/benchmark.py (\w+ ){4,}.*',
        '--size 64 --rounds 1 --no-memory',
        long=True,
    ),
    Rule(
        r'python tools/benchmark.py .* compiled .*',
        '--size 64 --rounds 1 --no-memory',
        says='compiled',
        long=True,
    ),
    # Where a CPU has no instructions for bfloat16, its steps take seconds.
    Rule(
        r'python tools/benchmark.py .* bf16 .*',
        '--size 64 --rounds 1 --no-memory',
        long=True,
    ),
    Rule(
        r'python tools/benchmark.py .* --batch 1 .*',
        '--size 64 --batch 1 2 --rounds 1 --no-memory',
    ),
    Rule(
        r'python tools/benchmark.py .+',
        '--size 64 --rounds 1 --no-memory',
        {'NAME': 'poolformer_s12'},
    ),
    Rule(r'python tools/ablate.py --list', says='hybrid_ppaa'),
    Rule(
        r'python tools/ablate.py .*--rows.*',
        ' '.join(SERIAL[:4]) + ' --epochs 1 --image-size 32 --batch-size 4',
        makes=('work_dirs/ablation/ablation.csv', 'work_dirs/ablation/ablation.png'),
    ),
    Rule(
        r'python tools/ablate.py data/\w+( --epochs 10)?',
        '--epochs 1 --image-size 32 --batch-size 2 --rows poolformer_s12 mlp_off '
        + options(*SERIAL[:4]),
        makes=('work_dirs/ablation/ablation.csv', 'work_dirs/ablation/ablation.png'),
    ),
    Rule(r'python tools/plot_curves.py work_dirs/a --list', says='bbox_mAP'),
    Rule(r'python tools/plot_curves.py .*', makes=('curves.png',)),
    Rule(
        r'python tools/convert_checkpoint.py CHECKPOINT my_detector .*',
        words={'CHECKPOINT': 'checkpoint.pth', 'CONFIG': 'config.py'},
        makes=tuple(f'my_detector/{name}' for name in ('config.*', '*.safetensors')),
    ),
    Rule(r'python tools/convert_checkpoint.py .*'),
    Rule(
        r'python tools/export.py (MODEL_OR_)?CONFIG .*',
        words={'MODEL_OR_': '', **SMALL, 'FILE': 'checkpoint.pth'},
    ),
    Rule(
        rf'python tools/export.py {SEGMENTOR} .*', words={'CHECKPOINT': 'fpn_s12.pth'}
    ),
    Rule(r'python tools/export.py .*--int8.*', '--max-drop 100', says='in int8'),
    Rule(r'python tools/export.py .*'),
    Rule(r'python docs/examples/onnx_inference.py .*'),
    # The whole way.
    Rule(
        r'python tools/quickstart.py.*',
        f'{SCENES} --size 64 {options(*TINY_DETECTOR)}',
        makes=('work_dirs/*/predictions.png', 'work_dirs/*/results.json'),
        says='Box AP',
    ),
    Rule(
        r'python tools/pretrain_demo.py.*',
        f'{SCENES} {options(*TINY_CLASSIFIER)} --detector-options '
        + ' '.join(TINY_DETECTOR),
        makes=('work_dirs/*/comparison.png', 'work_dirs/*/results.json'),
        says='pretrained: box AP',
    ),
    Rule(r'python -m mmpoolformer.doctor( --json)?', long=True),
    Rule(r'make (test|setup).*', words={'make ': 'make -n '}, says='setup_env.py'),
    Rule(r'make docs', words={'make ': 'make -n '}, says='mkdocs build --strict'),
    Rule(r'make doctor', words={'make ': 'make -n '}, says='mmpoolformer.doctor'),
    Rule(
        r'make (quickstart|pretrain-demo)',
        words={'make ': 'make -n '},
        says=r'tools/(quickstart|pretrain_demo).py',
    ),
]
NOT_RUN = {
    'pip install -e .': 'installs; tests/test_packaging.py installs what was built',
    "pip install --no-build-isolation -e '.[det]'": 'installs; so does `make setup`',
    "pip install --no-build-isolation -e '.[det,analysis]'": 'the same',
    'pre-commit install': 'writes into .git',
    'pip config list': "pip's own",
    'pip install .': 'the same as pip install -e .',
    'make lock': 'asks the package registry',
    'python docs/make_zoo.py': 'tests/test_zoo_page.py makes the same page',
    'pip install tensorboard': 'installs',
    'tensorboard --logdir work_dirs': 'serves until it is stopped, and is not ours',
    'make lint': 'sets up first; make test begins with it',
    'python tools/benchmark.py': 'a name in a table, without arguments',
    'NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 PORT=29500 '
    'tools/dist_train.sh CONFIG 8 --auto-scale-lr': 'runs beside the first machine',
    'python tools/convert_checkpoint.py timm://pit_ti_224 pit_ti.pdparams '
    '--to paddle': 'downloads; tests/checkpoints/test_paddle.py converts such weights',
    'python tools/gradcam.py cat.jpg dog.jpg --model poolformer_s12 timm/resnet50 '
    '--out cam.png': (
        'downloads; tests/analysis/test_gradcam_pages.py draws such a page'
    ),
}
WRITTEN = re.compile(
    r'(?:--(?:out|csv|json|results|plot|show-dir)|convert_checkpoint.py \S+) ([\w./]+)'
)


def rule_of(text: str) -> Rule | None:
    """Return the first rule for a command."""
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, text)), None)


def line_of(text: str, rule: Rule) -> str:
    """Return what is run."""
    for word, other in rule.words.items():
        text = text.replace(word, other)
    text = re.sub(r'(PORT=|--port )\d+', rf'\g<1>{free_port()}', text)
    line = f'{text} {rule.more}'.strip()
    if 'NODE_RANK=0' in line:  # both machines
        other = line.replace('NODE_RANK=0', 'NODE_RANK=1')
        line = f'{line} & first=$!; {other} && wait $first'
    return line


class Shell:
    """Runs lines in bash; Python itself runs in this process, where that will do.

    For that a stand-in for python prints what bash makes of the line. Those for
    programs of clusters print how they are called.
    """

    def __init__(self, programs: Path, cache: Path) -> None:
        nowhere = 'http://127.0.0.1:9'  # nothing is downloaded
        self.programs = programs
        self.variables = {
            **environment(),
            'PYTHON': sys.executable,
            'MMPOOLFORMER_CACHE': str(cache),
            **dict(
                http_proxy=nowhere, https_proxy=nowhere, no_proxy='127.0.0.1,0.0.0.0'
            ),
            **dict(HF_HUB_OFFLINE='1', GRADIO_ANALYTICS_ENABLED='False'),
        }

    def start(self, line: str, here: Path, programs: str | Path) -> subprocess.Popen:
        path = f'{self.programs / programs}{os.pathsep}{os.environ["PATH"]}'
        return subprocess.Popen(
            ['bash', '-c', line],
            cwd=here,
            env={**self.variables, 'PORT': free_port(), 'PATH': path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, line: str, here: Path) -> str:
        """Run a line that must succeed and return what it printed."""
        is_python = re.match(r'(\w+=\S+ )*python (?!-)', line)
        process = self.start(line, here, 'python' if is_python else 'cluster')
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f'{line}\n{output}'
        if not is_python:
            return output
        call = json.loads(output)
        done = run_here(call['argv'], here, **call['env'])
        assert done['code'] == 0, f'{line}\n{done["err"]}'
        return done['out'] + done['err']


@pytest.fixture(scope='module')
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp('bin')
    write_stand_ins(folder / 'cluster', 'srun', 'sbatch')
    write_stand_ins(folder / 'python', 'python')
    return Shell(folder, tmp_path_factory.mktemp('place') / 'cache')


@pytest.fixture(scope='module')
def place(shell: Shell) -> Place:
    return Place(Path(shell.variables['MMPOOLFORMER_CACHE']).parent, shell.run)


@pytest.mark.parametrize(
    'text', [text for text in TEXTS if text not in NOT_RUN], ids=lambda text: text[:90]
)
def test_command_does_what_it_promises(
    text: str, shell: Shell, place: Place, tmp_path: Path, long_mode: bool
) -> None:
    rule = rule_of(text)
    assert rule, 'add a rule for it, or a reason why it is not run'
    if (rule.long or text not in PAGES) and not long_mode:
        pytest.skip('takes longer: --long')
    line = line_of(text, rule)
    place.furnish(tmp_path, line)
    output = ask(shell, line, tmp_path) if rule.serves else shell.run(line, tmp_path)
    assert re.search(rule.says, output)
    # What is handed to a cluster writes nothing here.
    written = [] if 'slurm' in text else WRITTEN.findall(text)
    for name in (*written, *rule.makes):
        assert list(tmp_path.glob(name)), f'no {name}:\n{output}'


def ask(shell: Shell, line: str, here: Path) -> str:
    """Start a server, ask it for its page, and interrupt it."""
    server = shell.start(line, here, Path(sys.executable).parent)
    try:
        said = next(said for said in server.stdout if said.startswith('http://'))
        address = said.split()[0].replace('0.0.0.0', '127.0.0.1')
        with urllib.request.urlopen(address, timeout=60) as answer:
            page = answer.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 0
    return page


def test_nothing_is_listed_that_is_not_documented() -> None:
    assert [text for text in NOT_RUN if text not in TEXTS] == []
    used = {rule_of(text) and rule_of(text).pattern for text in TEXTS}
    assert [rule.pattern for rule in RULES if rule.pattern not in used] == []
