-- The tasks: what an episode starts with, and what the environment has to know of the world while it is played.

local folder = minetest.get_modpath(minetest.get_current_modname())
local terrain = dofile(folder .. "/terrain.lua")
local scenes = dofile(folder .. "/scenes.lua")
local textures = dofile(folder .. "/textures.lua")

local EYES = 1.47 -- nodes above the feet, as minetest_game has it
local FROZEN = { speed = 0, jump = 0, gravity = 0 }
local FREE = { speed = 1, jump = 1, gravity = 1 }

local task = nil -- the name of the one that is played
local start = nil -- where its player's feet are at first
local logs = 0 -- dug since the reset
local prepared = false

minetest.register_on_dignode(function(_, old)
	if minetest.get_item_group(old.name, "tree") > 0 then
		logs = logs + 1
	end
end)

-- A point `distance` nodes from `from` in the direction `yaw` (radians), on the grid.
local function ahead(from, yaw, distance)
	local way = minetest.yaw_to_dir(yaw)
	return vector.round(vector.add(from, vector.multiply(way, distance)))
end

local function random_yaw(random)
	return math.rad(15 * random:next(0, 23))
end

-- One tree straight ahead, others around.
local function plant_trees(random, ground, yaw)
	local function plant(angle, distance)
		local p = ahead(ground, angle, distance)
		local y = terrain.ground(p.x, ground.y + 12, p.z)
		if y and math.abs(y - ground.y) <= 3 then
			terrain.plant(random, { x = p.x, y = y, z = p.z })
		end
	end
	plant(yaw, random:next(3, 4))
	for k = 1, 5 do
		plant(yaw + math.rad(60 * k + random:next(-20, 20)), random:next(5, 8))
	end
end

-- Each calls `ready(feet, yaw)` when the world of the episode stands: where to be, and the way to look in radians.
local worlds = {}

local function land(random, ready, furnish)
	terrain.find_place(random, function(ground)
		local yaw = random_yaw(random)
		furnish(ground, yaw)
		ready({ x = ground.x, y = ground.y + 0.5, z = ground.z }, yaw)
	end)
end

function worlds.treechop(random, ready)
	land(random, ready, function(ground, yaw)
		plant_trees(random, ground, yaw)
	end)
end

function worlds.explore(random, ready)
	land(random, ready, function() end)
end

local FLOOR = { x = scenes.CENTER.x, y = scenes.CENTER.y - 0.5, z = scenes.CENTER.z }

function worlds.lookaway(random, ready)
	scenes.ring(random)
	ready(FLOOR, random_yaw(random))
end

function worlds.retrace(random, ready)
	scenes.lane(random, 32)
	ready(vector.add(FLOOR, { x = 0, y = 0, z = 1 }), 0)
end

function worlds.craft(random, ready)
	scenes.yard(random)
	local ground = vector.add(scenes.CENTER, { x = 0, y = -1, z = 0 })
	local yaw = random_yaw(random)
	-- Trees and boulders take turns, in an order and at distances that the seed decides.
	local first = random:next(0, 1)
	for k = 0, 5 do
		local p = ahead(ground, yaw + math.rad(60 * k + random:next(-15, 15)), random:next(4, 7))
		if (k + first) % 2 == 0 then
			terrain.plant(random, p, terrain.SPECIES[1])
		else
			for y = 1, 2 do
				minetest.set_node(vector.add(p, { x = 0, y = y, z = 0 }), { name = "default:stone" })
				minetest.set_node(vector.add(p, { x = 1, y = y, z = 0 }), { name = "default:stone" })
			end
		end
	end
	ready(FLOOR, yaw)
end

-- A cell under the floor of the scenes, too narrow to move in. The client decides how its player moves and keeps its
-- speed when it is put elsewhere, so it comes to rest here before an episode begins.
local CELL = vector.add(FLOOR, { x = 0, y = -24, z = 0 })

local function build_cell()
	for x = -1, 1 do
		for y = -1, 2 do
			for z = -1, 1 do
				local inside = x == 0 and z == 0 and (y == 0 or y == 1)
				local p = vector.add(CELL, { x = x, y = y + 0.5, z = z })
				minetest.set_node(p, { name = inside and "air" or "default:stone_block" })
			end
		end
	end
end

-- Calls `ready` in the first of the coming steps in which `done()` holds, or `fail(reason)` after 300.
local function wait(done, reason, ready, fail)
	local waited = 0
	local function look()
		waited = waited + 1
		if done() then
			ready()
		elseif waited == 300 then
			fail(reason)
		else
			minetest.after(0, look)
		end
	end
	minetest.after(0, look)
end

-- Calls `ready` when the player rests in the cell, or `fail(reason)`.
local function rest(player, ready, fail)
	local resting = 0
	wait(function()
		local moves = vector.length(player:get_velocity()) > 0 or vector.distance(player:get_pos(), CELL) > 0.6
		resting = moves and 0 or resting + 1
		return resting == 3
	end, "the player does not come to rest", ready, fail)
end

local function after_steps(count, call)
	minetest.after(0, function()
		if count > 1 then
			after_steps(count - 1, call)
		else
			call()
		end
	end)
end

-- Takes away what lies on the ground or moves, and calls `ready` when it is gone, or `fail(reason)`. To the engine it is
-- an error, which it writes over the picture, when the map is deleted before.
local function clear(ready, fail)
	wait(function()
		for _, entity in pairs(minetest.luaentities) do
			entity.object:remove()
		end
		return next(minetest.luaentities) == nil
	end, "what lies on the ground does not go", ready, fail)
end

-- Sends the chunk of 5 x 5 x 5 blocks around `feet`, and calls `ready` when it is drawn. Left to itself the engine sends
-- what is in sight, and looks for it every 2 seconds: until then one sees the world of the episode before.
local function deliver(player, feet, ready)
	after_steps(2, function() -- by then it knows what has changed
		local middle = vector.floor(vector.divide(feet, 16))
		for x = -2, 2 do
			for y = -2, 2 do
				for z = -2, 2 do
					player:send_mapblock(vector.add(middle, { x = x, y = y, z = z }))
				end
			end
		end
		local hide = not prepared and textures.show(player) or function() end
		prepared = true
		after_steps(10, function()
			hide()
			ready()
		end)
	end)
end

-- What is seen besides the world, and what the player may do. The memory tasks compare frames, so nothing of the
-- player is in view there.
local SETTINGS = {
	treechop = { hand = true, tool = "default:axe_steel" },
	explore = { hand = true },
	lookaway = { still = true },
	retrace = {},
	craft = { hand = true, tool = "default:axe_steel" },
}

local function equip(player, settings)
	-- The sky of the engine goes on changing by a shade for minutes.
	player:set_sky({ type = "plain", base_color = "#8ec2f2", clouds = false })
	player:set_armor_groups({ immortal = 1 })
	player:set_hp(20)
	local inventory = player:get_inventory()
	for _, list in ipairs({ "main", "craft", "craftpreview", "craftresult" }) do
		inventory:set_list(list, {})
	end
	if settings.tool then
		inventory:set_stack("main", 1, settings.tool)
	end
	player:hud_set_flags({
		hotbar = false,
		healthbar = false,
		breathbar = false,
		minimap = false,
		crosshair = false, -- drawn at a fixed size, it would cover a third of a small frame
		wielditem = settings.hand or false,
	})
end

-- reset(task, seed): prepares an episode and leaves the player in it, unable to move until `begin`.
bridge.command("reset", function(player, args, done)
	local settings = SETTINGS[args.task] or error("there is no task '" .. tostring(args.task) .. "'")
	local random = PcgRandom(args.seed)
	task = nil
	local function enter(feet, yaw)
		player:set_physics_override(FROZEN)
		player:set_pos(feet)
		player:set_look_horizontal(yaw)
		player:set_look_vertical(0)
		task, start = args.task, feet
		deliver(player, feet, done)
	end
	local low, high = vector.subtract(scenes.CENTER, 40), vector.add(scenes.CENTER, 39) -- one chunk
	terrain.generate(low, high, function()
		build_cell()
		player:set_physics_override(FREE)
		player:set_pos(CELL)
		equip(player, settings)
		clear(function()
			terrain.forget(low, high)
			worlds[args.task](random, function(feet, yaw)
				rest(player, function()
					enter(feet, yaw)
				end, done.fail)
			end)
		end, done.fail)
	end)
end)

-- begin(): lets the player go.
bridge.command("begin", function(player, _, done)
	assert(vector.distance(player:get_pos(), start) < 0.01, "the player is not where the episode starts")
	player:set_physics_override(SETTINGS[task].still and FROZEN or FREE)
	logs = 0
	done()
end)

-- craft(grid): crafts once from `grid` (9 item names, "" for none) if the inventory holds it all, by the game's own
-- recipes; answers with the item that was made, "" for none. Tools are taken in hand.
bridge.command("craft", function(player, args, done)
	local inventory = player:get_inventory()
	local wanted, items = {}, {}
	for slot, name in ipairs(args.grid) do
		items[slot] = ItemStack(name)
		if name ~= "" then
			wanted[name] = (wanted[name] or 0) + 1
		end
	end
	for name, count in pairs(wanted) do
		if not inventory:contains_item("main", ItemStack(name .. " " .. count)) then
			return done({ item = "" })
		end
	end
	local output = minetest.get_craft_result({ method = "normal", width = 3, items = items })
	if output.item:is_empty() then
		return done({ item = "" })
	end
	for name, count in pairs(wanted) do
		inventory:remove_item("main", ItemStack(name .. " " .. count))
	end
	if minetest.registered_tools[output.item:get_name()] then
		local held = player:get_wielded_item()
		player:set_wielded_item(output.item)
		inventory:add_item("main", held)
	else
		inventory:add_item("main", output.item)
	end
	done({ item = output.item:get_name() })
end)

-- The node of `names` that is nearest to the eyes, among those that can be reached by walking and looking up.
local function nearest(feet, names)
	local low = vector.add(feet, { x = -12, y = -1, z = -12 })
	local high = vector.add(feet, { x = 12, y = 5, z = 12 })
	local eyes = vector.add(feet, { x = 0, y = EYES, z = 0 })
	local best, distance = nil, math.huge
	for _, p in ipairs(minetest.find_nodes_in_area(low, high, names)) do
		local away = vector.distance(p, eyes)
		if away < distance then
			best, distance = p, away
		end
	end
	return best
end

bridge.state(function(player)
	local state = { name = task, logs = logs }
	if task == "treechop" or task == "craft" then
		state.log = nearest(player:get_pos(), { "group:tree" })
	end
	if task == "craft" then
		state.stone = nearest(player:get_pos(), { "default:stone" })
	end
	return state
end)
